//! The first rows of each cluster, kept while all rows go by.

use std::collections::BinaryHeap;

use super::quotas::{fill, Clusters, Quotas};
use super::Row;

/// How many rows a cluster may give.
#[derive(Clone, Copy)]
pub enum Limits<'a> {
    /// Equal quotas of so many rows in all. The quota for the rows seen so far is never smaller than the final one,
    /// since it falls as clusters grow, so it says what need not be kept.
    Level { budget: u64 },
    /// By label; nothing of a cluster beyond the end.
    Fixed(&'a [u64]),
}

/// (key, row, cost): the greatest is the first to go.
type Entry = (u64, u64, u64);

pub struct Kept<'a> {
    limits: Limits<'a>,
    /// Eligible rows of each cluster.
    pub counts: Vec<u64>,
    /// Their cost together.
    pub cost: u64,
    heaps: Vec<BinaryHeap<Entry>>,
    /// Most rows that a cluster may give, as far as is known. Only for `Limits::Level`.
    level: u64,
    held: u64,
    /// Held rows at which the level is computed anew.
    trim_at: u64,
}

impl<'a> Kept<'a> {
    pub fn new(limits: Limits<'a>) -> Kept<'a> {
        let mut kept =
            Kept { limits, counts: Vec::new(), cost: 0, heaps: Vec::new(), level: u64::MAX, held: 0, trim_at: 0 };
        kept.set_trim();
        kept
    }

    fn set_trim(&mut self) {
        if let Limits::Level { budget } = self.limits {
            // After a trim at most the budget and one row a cluster are held, so trims are rare.
            self.trim_at = budget.saturating_add(self.counts.len() as u64).saturating_mul(2).saturating_add(1024);
        }
    }

    fn limit(&self, label: usize) -> u64 {
        match self.limits {
            Limits::Level { .. } => self.level,
            Limits::Fixed(limits) => limits.get(label).copied().unwrap_or(0),
        }
    }

    pub fn offer(&mut self, row: Row) {
        if row.label >= self.counts.len() {
            self.counts.resize(row.label + 1, 0);
            self.heaps.resize_with(row.label + 1, BinaryHeap::new);
            self.set_trim();
        }
        self.counts[row.label] += 1;
        self.cost = self.cost.saturating_add(row.cost);
        self.keep(row.label, (row.key, row.row, row.cost));
    }

    fn keep(&mut self, label: usize, entry: Entry) {
        let limit = self.limit(label);
        let heap = &mut self.heaps[label];
        if (heap.len() as u64) < limit {
            heap.push(entry);
            self.held += 1;
            if matches!(self.limits, Limits::Level { .. }) && self.held > self.trim_at {
                self.trim();
            }
        } else if let Some(mut worst) = heap.peek_mut() {
            if entry < *worst {
                *worst = entry;
            }
        }
    }

    fn trim(&mut self) {
        let Limits::Level { budget } = self.limits else { return };
        let clusters = Clusters::new(&self.counts, Quotas::Equal, 0);
        self.level = fill(&clusters, budget).most();
        self.held = 0;
        for heap in &mut self.heaps {
            while heap.len() as u64 > self.level {
                heap.pop();
            }
            self.held += heap.len() as u64;
        }
        self.set_trim();
    }

    /// What one would have kept that saw the rows of both.
    pub fn merge(mut self, other: Kept<'a>) -> Kept<'a> {
        let clusters = self.counts.len().max(other.counts.len());
        self.counts.resize(clusters, 0);
        self.heaps.resize_with(clusters, BinaryHeap::new);
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.cost = self.cost.saturating_add(other.cost);
        self.trim();
        for (label, heap) in other.heaps.into_iter().enumerate() {
            heap.into_iter().for_each(|entry| self.keep(label, entry));
        }
        self
    }

    /// The first rows of each cluster, in order, up to its quota.
    pub fn sorted(self, quotas: &[u64]) -> Vec<Vec<Row>> {
        let mut clusters = Vec::with_capacity(self.heaps.len());
        for (label, heap) in self.heaps.into_iter().enumerate() {
            let mut entries = heap.into_sorted_vec();
            entries.truncate(quotas.get(label).map_or(0, |&quota| usize::try_from(quota).unwrap_or(usize::MAX)));
            clusters.push(entries.into_iter().map(|(key, row, cost)| Row { row, label, key, cost }).collect());
        }
        clusters
    }
}
