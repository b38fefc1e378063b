//! BIDS (arXiv 2501.12147). The column of each seed in the influence matrix is standardised. Then rows are picked one
//! by one: the next row has the largest max_j (z_ij - mean over the picked rows k of z_kj).
//!
//! The subtracted mean does not depend on the row, so only the highest remaining entry of each column can win. A
//! pointer into the sorted order of each column gives the picks of the plain form, which looks at every entry each
//! time. Equal gains go to the lower row, then the lower column. Equal entries of a column go to the lower row.

#[cfg(test)]
mod tests;

use super::sorted_columns::{Options, Scale, SortedColumns};
use crate::interrupt::{Progress, Supervisor};
use crate::parallel::thread_pool;
use crate::sweep::{Influence, SingleRows};
use crate::Result;

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

/// A column during the picks.
struct Column {
    scale: Scale,
    /// The highest remaining entry: its row, and its standardised number.
    row: usize,
    z: f64,
    /// The mean of the picked rows.
    mean: f64,
}

fn pick(influence: &Influence, options: &Options, supervisor: &Supervisor) -> Result<Picked> {
    let n_seeds = influence.n_seeds();
    let (mut sorted, valid, moments) = SortedColumns::new(influence, options, supervisor)?;
    let column = |scale| Column { scale, row: 0, z: 0.0, mean: 0.0 };
    let mut columns: Vec<Column> = moments.iter().map(|moments| column(moments.scale())).collect();
    let flat = columns.iter().filter(|column| column.scale.deviation == 0.0).count();
    // If no seed tells rows apart, one column speaks for all: every gain is 0, and rows come in order.
    let speaks: Vec<usize> = match flat == n_seeds {
        true => vec![0],
        false => (0..n_seeds).filter(|&j| columns[j].scale.deviation > 0.0).collect(),
    };
    let total = options.budget.min(usize::try_from(valid).unwrap_or(usize::MAX));
    let mut picked = Picked { flat, ..Picked::default() };
    let mut single = SingleRows::new(*influence);
    let mut sums = vec![0f64; n_seeds];
    let mut last = None;
    while picked.rows.len() < total {
        supervisor.check()?;
        let mut best: Option<(f64, usize, usize)> = None;
        for &j in &speaks {
            let column = &mut columns[j];
            if last.is_none() || last == Some(column.row) {
                let head = sorted.head(j)?.expect("a valid row remains, so every column has an entry");
                (column.row, column.z) = (head.row, column.scale.of(head.value));
            }
            let gain = column.z - column.mean;
            // Columns come in order, so an equal gain in an equal row stays with the lower one.
            if best.is_none_or(|(most, row, _)| gain > most || (gain == most && column.row < row)) {
                best = Some((gain, column.row, j));
            }
        }
        let (gain, row, seed) = best.expect("at least one column speaks");
        picked.rows.push(row as i64);
        picked.seeds.push(seed as u32);
        picked.gains.push(gain);
        sorted.take(row);
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
