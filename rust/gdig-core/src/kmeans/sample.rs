//! A seeded sample of rows to train on.

use crate::interrupt::Supervisor;
use crate::resample::{bottom_k, BottomK};
use crate::rows::RowSet;
use crate::Result;

/// `n` valid rows of the set (all, if it has fewer), ascending: those whose position has the smallest seeded hash.
pub fn sample(rows: RowSet, n: usize, random_seed: u64, supervisor: &Supervisor) -> Result<Vec<u64>> {
    if let Some(list) = rows.list {
        let positions = bottom_k(0..list.len() as u64, n, random_seed, supervisor)?;
        return Ok(positions.into_iter().map(|position| list[position as usize]).collect());
    }
    let mut smallest = BottomK::new(n, random_seed);
    rows.source.each_valid(supervisor, |row| smallest.offer(row as u64))?;
    Ok(smallest.rows())
}
