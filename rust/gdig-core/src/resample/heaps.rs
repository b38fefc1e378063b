//! A heap for each cluster, with the first rows of the cluster. All rows are offered to the heaps.

use std::collections::BinaryHeap;

use super::count::Sizes;
use super::quotas::{fill, Clusters, Quotas};
use super::slots::Slots;
use super::{Collector, Row};

/// The most rows of each cluster.
#[derive(Clone, Copy)]
pub enum Caps<'a> {
    /// Equal quotas of `budget` rows in all. A quota falls as clusters grow, so the quota for the rows so far is never
    /// smaller than the final one. Rows beyond it can go.
    Level { budget: u64 },
    /// A cap for each of the clusters that an earlier pass has counted.
    Fixed { sizes: &'a Sizes, caps: &'a [u64] },
}

/// (key, row, cost). The greatest entry goes first.
type Entry = (u64, u64, u64);

/// What each row of a cluster is compared with first. Nearly all rows end here.
#[derive(Clone, Copy)]
struct Gate {
    count: u64,
    /// A row with a greater key is dropped.
    bar: u64,
}

pub struct Heaps<'a> {
    caps: Caps<'a>,
    slots: Slots,
    gates: Vec<Gate>,
    heaps: Vec<BinaryHeap<Entry>>,
    /// The cap of each cluster, for `Caps::Fixed`.
    fixed: Vec<u64>,
    cost: u64,
    /// The most rows that a cluster may give by the rows so far, for `Caps::Level`.
    level: u64,
    held: u64,
    /// The number of held rows at which the level is computed anew.
    trim_at: u64,
}

impl<'a> Heaps<'a> {
    pub fn new(caps: Caps<'a>) -> Heaps<'a> {
        let mut heaps = Heaps {
            caps,
            slots: Slots::default(),
            gates: Vec::new(),
            heaps: Vec::new(),
            fixed: Vec::new(),
            cost: 0,
            level: u64::MAX,
            held: 0,
            trim_at: 0,
        };
        heaps.set_trim();
        heaps
    }

    fn set_trim(&mut self) {
        self.trim_at = match self.caps {
            // After a trim the heaps hold at most the budget and one row for each cluster, so trims are rare.
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
        if let Caps::Fixed { sizes, caps } = self.caps {
            self.fixed.push(sizes.labels.binary_search(&label).map_or(0, |k| caps[k]));
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
        let Caps::Level { budget } = self.caps else { return };
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

    /// The clusters, and the first rows of each in order.
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

impl Collector for Heaps<'_> {
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
