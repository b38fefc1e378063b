//! BIDS (arXiv 2501.12147). The column of each seed in the influence matrix is standardised. Then rows are picked one
//! by one: the next row has the largest max_j (z_ij - mean over the picked rows k of z_kj).
//!
//! The subtracted mean does not depend on the row, so only the highest remaining entry of each column can win. A
//! pointer into the sorted order of each column gives the picks of the plain form, which looks at every entry each
//! time. Equal gains go to the lower row, then the lower column. Equal entries of a column go to the lower row.

mod columns;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use columns::{row_of, scan, value_of, Scale};

use crate::interrupt::{Progress, Supervisor};
use crate::parallel::thread_pool;
use crate::sweep::{Influence, SingleRows};
use crate::Result;

pub struct Options {
    /// Rows to pick.
    pub budget: usize,
    /// 0 means as many threads as the machine has cores.
    pub n_threads: usize,
    /// The entries of each column that the first pass keeps. When a column runs out, another pass keeps four times as
    /// many from the position of each column on. The number does not change the result.
    pub depth: usize,
    /// The most entries of all columns together; each column keeps at least one. A pass holds twice as many, of 8 bytes
    /// each.
    pub most_entries: usize,
}

impl Options {
    pub fn new(budget: usize) -> Options {
        Options { budget, n_threads: 0, depth: 4096, most_entries: 1 << 27 }
    }
}

/// The picked rows, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picked {
    pub rows: Vec<i64>,
    /// The seed that each row was picked for.
    pub seeds: Vec<u32>,
    /// By how many standard deviations each row exceeds the mean of the rows before it, in the column of that seed.
    pub gains: Vec<f64>,
    /// The number of columns in which all valid rows are equal. They have no say.
    pub flat: usize,
}

/// Pick valid rows up to the budget; fewer when fewer are valid. Memory grows with the columns times the kept entries
/// (`Options`), not with the rows.
pub fn bids(influence: &Influence, options: &Options, supervisor: &Supervisor) -> Result<Picked> {
    thread_pool(options.n_threads)?.install(|| pick(influence, options, supervisor))
}

/// The remaining entries of a column, the highest first.
struct Column {
    scale: Scale,
    keys: Vec<u64>,
    at: usize,
    /// The last key that a pass has left out, because it was used up before.
    after: Option<u64>,
    /// The highest remaining entry: its row, and its standardised number.
    row: usize,
    z: f64,
    /// The mean of the picked rows.
    mean: f64,
}

impl Column {
    /// Go to the next entry whose row is not picked. False when the kept entries are used up.
    fn settle(&mut self, taken: &Rows) -> bool {
        while let Some(&key) = self.keys.get(self.at) {
            if !taken.contains(&(row_of(key) as u64)) {
                (self.row, self.z) = (row_of(key), self.scale.of(value_of(key)));
                return true;
            }
            self.at += 1;
        }
        false
    }
}

fn pick(influence: &Influence, options: &Options, supervisor: &Supervisor) -> Result<Picked> {
    let n_seeds = influence.n_seeds();
    let most = (options.most_entries / n_seeds).max(1);
    let mut depth = options.depth.min(options.budget).clamp(1, most);
    let (valid, scanned) = scan(influence, depth, None, supervisor)?;
    let column = |(moments, keys): (columns::Moments, Vec<u64>)| {
        let scale = moments.scale();
        Column { scale, keys, at: 0, after: None, row: 0, z: 0.0, mean: 0.0 }
    };
    let mut columns: Vec<Column> = scanned.into_iter().map(column).collect();
    let flat = columns.iter().filter(|column| column.scale.deviation == 0.0).count();
    // If no seed tells rows apart, one column speaks for all: every gain is 0, and rows come in order.
    let speaks: Vec<usize> = match flat == n_seeds {
        true => vec![0],
        false => (0..n_seeds).filter(|&j| columns[j].scale.deviation > 0.0).collect(),
    };
    let total = options.budget.min(usize::try_from(valid).unwrap_or(usize::MAX));
    let mut picked = Picked { flat, ..Picked::default() };
    let (mut single, mut taken) = (SingleRows::new(*influence), Rows::default());
    let mut sums = vec![0f64; n_seeds];
    let mut last = None;
    while picked.rows.len() < total {
        supervisor.check()?;
        let mut best: Option<(f64, usize, usize)> = None;
        let mut used_up = false;
        for &j in &speaks {
            let column = &mut columns[j];
            if (last.is_none() || last == Some(column.row)) && !column.settle(&taken) {
                used_up = true;
                break;
            }
            let gain = column.z - column.mean;
            // Columns come in order, so an equal gain in an equal row stays with the lower one.
            if best.is_none_or(|(most, row, _)| gain > most || (gain == most && column.row < row)) {
                best = Some((gain, column.row, j));
            }
        }
        if used_up {
            depth = depth.saturating_mul(4).min(options.budget).clamp(1, most);
            for column in columns.iter_mut().filter(|column| column.at > 0) {
                column.after = Some(column.keys[column.at - 1]);
            }
            let after: Vec<Option<u64>> = columns.iter().map(|column| column.after).collect();
            let (_, scanned) = scan(influence, depth, Some(&after), supervisor)?;
            for (column, (_, keys)) in columns.iter_mut().zip(scanned) {
                (column.keys, column.at) = (keys, 0);
            }
            last = None;
            continue;
        }
        let (gain, row, seed) = best.expect("a valid row remains, so every column that speaks has an entry");
        picked.rows.push(row as i64);
        picked.seeds.push(seed as u32);
        picked.gains.push(gain);
        taken.insert(row as u64);
        last = Some(row);
        let n = picked.rows.len() as f64;
        for ((column, sum), &x) in columns.iter_mut().zip(&mut sums).zip(single.row(row)?) {
            *sum += column.scale.of(x);
            column.mean = *sum / n;
        }
        if picked.rows.len().is_multiple_of(4096) {
            supervisor.report(Progress::Rows { done: picked.rows.len(), total });
        }
    }
    Ok(picked)
}

type Rows = HashSet<u64, BuildHasherDefault<Spread>>;

/// The hash of a row number: its product with an odd constant. It is fast, because columns ask often whether a row is
/// picked. Nobody chooses row numbers to make them collide.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, row: u64) {
        // The table takes its place from the low bits and a tag from the high ones.
        self.0 = row.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("row numbers are u64");
    }
}
