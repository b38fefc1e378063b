//! The first rows of each cluster, kept while all rows go by.

use std::collections::BinaryHeap;

use super::count::Sizes;
use super::quotas::{fill, Clusters, Quotas};
use super::slots::Slots;
use super::{Part, Row};

/// How many rows a cluster may give.
#[derive(Clone, Copy)]
pub enum Caps<'a> {
    /// Equal quotas of so many rows in all. The quota for the rows seen so far is never smaller than the final one,
    /// since it falls as clusters grow, so it says what need not be kept.
    Level { budget: u64 },
    /// Of each of the clusters counted before.
    Fixed { sizes: &'a Sizes, limits: &'a [u64] },
}

/// (key, row, cost): the greatest is the first to go.
type Entry = (u64, u64, u64);

/// What every row of a cluster is held against: nearly all end here.
#[derive(Clone, Copy)]
struct Gate {
    count: u64,
    /// A row with a greater key is not kept.
    bar: u64,
}

pub struct Heaps<'a> {
    limits: Caps<'a>,
    slots: Slots,
    gates: Vec<Gate>,
    heaps: Vec<BinaryHeap<Entry>>,
    /// Most rows of each, for `Caps::Fixed`.
    fixed: Vec<u64>,
    cost: u64,
    /// Most rows that a cluster may give, as far as is known, for `Caps::Level`.
    level: u64,
    held: u64,
    /// Held rows at which the level is computed anew.
    trim_at: u64,
}

impl<'a> Heaps<'a> {
    pub fn new(limits: Caps<'a>) -> Heaps<'a> {
        let mut kept = Heaps {
            limits,
            slots: Slots::default(),
            gates: Vec::new(),
            heaps: Vec::new(),
            fixed: Vec::new(),
            cost: 0,
            level: u64::MAX,
            held: 0,
            trim_at: 0,
        };
        kept.set_trim();
        kept
    }

    fn set_trim(&mut self) {
        self.trim_at = match self.limits {
            // After a trim at most the budget and one row a cluster are held, so trims are rare.
            Caps::Level { budget } => {
                budget.saturating_add(self.gates.len() as u64).saturating_mul(2).saturating_add(1024)
            }
            Caps::Fixed { .. } => u64::MAX,
        };
    }

    #[cold]
    fn add(&mut self, label: usize) -> usize {
        self.gates.push(Gate { count: 0, bar: u64::MAX });
        self.heaps.push(BinaryHeap::new());
        if let Caps::Fixed { sizes, limits } = self.limits {
            self.fixed.push(sizes.labels.binary_search(&label).map_or(0, |k| limits[k]));
        }
        self.set_trim();
        self.slots.add(label)
    }

    #[inline]
    fn slot(&mut self, label: usize) -> usize {
        match self.slots.get(label) {
            Some(slot) => slot,
            None => self.add(label),
        }
    }

    #[inline(never)]
    fn keep(&mut self, slot: usize, entry: Entry) {
        let limit = self.fixed.get(slot).copied().unwrap_or(self.level);
        let heap = &mut self.heaps[slot];
        if (heap.len() as u64) < limit {
            heap.push(entry);
            self.held += 1;
        } else if let Some(mut worst) = heap.peek_mut() {
            if entry < *worst {
                *worst = entry;
            }
        }
        self.gates[slot].bar = bar(heap, limit);
        if self.held > self.trim_at {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let Caps::Level { budget } = self.limits else { return };
        let counts: Vec<u64> = self.gates.iter().map(|gate| gate.count).collect();
        self.level = fill(&Clusters::new(&self.slots.labels, &counts, Quotas::Equal, 0), budget).most();
        self.held = 0;
        for (heap, gate) in self.heaps.iter_mut().zip(&mut self.gates) {
            while heap.len() as u64 > self.level {
                heap.pop();
            }
            gate.bar = bar(heap, self.level);
            self.held += heap.len() as u64;
        }
        self.set_trim();
    }

    #[cfg(test)]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// The clusters seen, and the first rows of each in order.
    pub fn sorted(mut self) -> (Sizes, Vec<Vec<Row>>) {
        let order = self.slots.by_label();
        let labels: Vec<usize> = order.iter().map(|&slot| self.slots.labels[slot]).collect();
        let counts = order.iter().map(|&slot| self.gates[slot].count).collect();
        let mut clusters = Vec::with_capacity(order.len());
        for (&slot, &label) in order.iter().zip(&labels) {
            let entries = std::mem::take(&mut self.heaps[slot]).into_sorted_vec();
            clusters.push(entries.into_iter().map(|(key, row, cost)| Row { row, label, key, cost }).collect());
        }
        (Sizes { labels, counts, cost: self.cost }, clusters)
    }
}

/// The greatest key that a heap with room for `limit` rows may still take.
fn bar(heap: &BinaryHeap<Entry>, limit: u64) -> u64 {
    match heap.peek() {
        Some(worst) if heap.len() as u64 >= limit => worst.0,
        None if limit == 0 => 0,
        _ => u64::MAX,
    }
}

impl Part for Heaps<'_> {
    #[inline]
    fn offer(&mut self, row: Row) {
        let slot = self.slot(row.label);
        let gate = &mut self.gates[slot];
        gate.count += 1;
        let bar = gate.bar;
        self.cost = self.cost.saturating_add(row.cost);
        if row.key <= bar {
            self.keep(slot, (row.key, row.row, row.cost));
        }
    }

    fn merge(mut self, other: Self) -> Self {
        let slots: Vec<usize> = other.slots.labels.iter().map(|&label| self.slot(label)).collect();
        for (&slot, gate) in slots.iter().zip(&other.gates) {
            self.gates[slot].count += gate.count;
        }
        self.cost = self.cost.saturating_add(other.cost);
        self.trim();
        for (slot, heap) in slots.into_iter().zip(other.heaps) {
            heap.into_iter().for_each(|entry| self.keep(slot, entry));
        }
        self
    }
}
