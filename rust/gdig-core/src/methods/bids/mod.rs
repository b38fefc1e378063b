//! BIDS (arXiv 2501.12147): each seed's column of the influence matrix is standardised, then candidates are taken one by
//! one: the one with the largest max_j (z_ij - mean over those taken of z_kj).
//!
//! The subtracted mean does not depend on the candidate, so of each column only the highest remaining entry can win: a
//! pointer into each column's sorted order gives the picks of the plain form, which looks at every entry each time. Equal
//! gains go to the lower row, then the lower column; in a column equal entries go to the lower row.

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
    pub budget: usize,
    /// 0: as many as the machine has.
    pub n_threads: usize,
    /// Entries of each column that the first pass keeps. When a column runs out there is another pass, which keeps four
    /// times as many from where each column stands. The result does not depend on it.
    pub depth: usize,
    /// Entries that are kept in all, unless that is fewer than one a column. During a pass twice as many are held, of 8
    /// bytes each.
    pub most_entries: usize,
}

impl Options {
    pub fn new(budget: usize) -> Options {
        Options { budget, n_threads: 0, depth: 4096, most_entries: 1 << 27 }
    }
}

/// The picks, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picked {
    pub rows: Vec<i64>,
    /// The column that each was taken for.
    pub seeds: Vec<u32>,
    /// By how many standard deviations it exceeds, in that column, the mean of those taken before.
    pub gains: Vec<f64>,
    /// Columns in which all valid rows are equal: they have no say.
    pub flat: usize,
}

/// Candidates that are valid, up to the budget; fewer when fewer are valid. Memory grows with the columns times the
/// entries kept (`Options`), not with the rows.
pub fn bids(influence: &Influence, options: &Options, supervisor: &Supervisor) -> Result<Picked> {
    thread_pool(options.n_threads)?.install(|| pick(influence, options, supervisor))
}

/// The remaining entries of a column, the highest first.
struct Column {
    scale: Scale,
    keys: Vec<u64>,
    at: usize,
    /// The last key that a pass has left out, since it was used up before.
    after: Option<u64>,
    /// The highest remaining entry: its row, and its number standardised.
    row: usize,
    z: f64,
    /// Of those taken.
    mean: f64,
}

impl Column {
    /// Go to the next entry that is not taken. False when the entries kept are used up.
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
    let (valid, found) = scan(influence, depth, None, supervisor)?;
    let column = |(moments, keys): (columns::Moments, Vec<u64>)| {
        let scale = moments.scale();
        Column { scale, keys, at: 0, after: None, row: 0, z: 0.0, mean: 0.0 }
    };
    let mut columns: Vec<Column> = found.into_iter().map(column).collect();
    let flat = columns.iter().filter(|column| column.scale.deviation == 0.0).count();
    // Where no seed tells candidates apart one column speaks for all: every gain is 0, and rows come in order.
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
            let (_, found) = scan(influence, depth, Some(&after), supervisor)?;
            for (column, (_, keys)) in columns.iter_mut().zip(found) {
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

/// A row number times an odd constant: columns ask many times whether a row is taken, and nobody chooses row numbers to
/// make them collide.
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
