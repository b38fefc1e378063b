//! Seeded samples of rows.

use std::collections::BinaryHeap;

use super::CHECK_EVERY;
use crate::hash::row_hash;
use crate::interrupt::Supervisor;
use crate::Result;

/// The `n` rows with the smallest hash of (random seed, row), of the rows that are offered.
pub struct BottomK {
    n: usize,
    random_seed: u64,
    heap: BinaryHeap<(u64, u64)>,
}

impl BottomK {
    pub fn new(n: usize, random_seed: u64) -> BottomK {
        BottomK { n, random_seed, heap: BinaryHeap::new() }
    }

    #[inline]
    pub fn offer(&mut self, row: u64) {
        let entry = (row_hash(self.random_seed, row), row);
        if self.heap.len() < self.n {
            self.heap.push(entry);
        } else if let Some(mut worst) = self.heap.peek_mut() {
            if entry < *worst {
                *worst = entry;
            }
        }
    }

    /// Those rows, ascending; all that were offered if they are fewer than `n`.
    pub fn rows(self) -> Vec<u64> {
        let mut rows: Vec<u64> = self.heap.into_iter().map(|(_, row)| row).collect();
        rows.sort_unstable();
        rows
    }
}

/// The `n` of `rows` with the smallest hash of (random seed, row), ascending; all of them if they are fewer.
pub fn bottom_k(
    rows: impl Iterator<Item = u64>,
    n: usize,
    random_seed: u64,
    supervisor: &Supervisor,
) -> Result<Vec<u64>> {
    let mut smallest = BottomK::new(n, random_seed);
    for (i, row) in rows.enumerate() {
        if i % CHECK_EVERY == 0 {
            supervisor.check()?;
        }
        smallest.offer(row);
    }
    Ok(smallest.rows())
}
