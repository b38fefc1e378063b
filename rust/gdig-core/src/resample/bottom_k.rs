//! Seeded samples of rows.

use std::collections::BinaryHeap;

use super::CHECK_EVERY;
use crate::hash::row_hash;
use crate::interrupt::Supervisor;
use crate::Result;

/// The `n` rows with the smallest hash of (seed, row), of those that are offered one after the other.
pub struct BottomK {
    n: usize,
    seed: u64,
    kept: BinaryHeap<(u64, u64)>,
}

impl BottomK {
    pub fn new(n: usize, seed: u64) -> BottomK {
        BottomK { n, seed, kept: BinaryHeap::new() }
    }

    #[inline]
    pub fn offer(&mut self, row: u64) {
        let entry = (row_hash(self.seed, row), row);
        if self.kept.len() < self.n {
            self.kept.push(entry);
        } else if let Some(mut worst) = self.kept.peek_mut() {
            if entry < *worst {
                *worst = entry;
            }
        }
    }

    /// The rows kept, ascending; all that were offered if they are fewer than `n`.
    pub fn rows(self) -> Vec<u64> {
        let mut chosen: Vec<u64> = self.kept.into_iter().map(|(_, row)| row).collect();
        chosen.sort_unstable();
        chosen
    }
}

/// The `n` of `rows` with the smallest hash of (seed, row), ascending; all of them if they are fewer.
pub fn bottom_k(rows: impl Iterator<Item = u64>, n: usize, seed: u64, supervisor: &Supervisor) -> Result<Vec<u64>> {
    let mut kept = BottomK::new(n, seed);
    for (i, row) in rows.enumerate() {
        if i % CHECK_EVERY == 0 {
            supervisor.check()?;
        }
        kept.offer(row);
    }
    Ok(kept.rows())
}
