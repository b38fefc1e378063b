//! The number of eligible rows of each cluster.

use super::slots::Slots;
use super::{Collector, Row};

/// The clusters by rising label, and the number of their rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sizes {
    pub labels: Vec<usize>,
    /// The eligible rows of each cluster, at least 1.
    pub counts: Vec<u64>,
    /// The sum of the costs of all eligible rows.
    pub cost: u64,
}

#[derive(Default)]
pub struct Counting {
    slots: Slots,
    counts: Vec<u64>,
    cost: u64,
}

impl Counting {
    #[inline]
    fn count_of(&mut self, label: usize) -> &mut u64 {
        let slot = match self.slots.get(label) {
            Some(slot) => slot,
            None => {
                self.counts.push(0);
                self.slots.add(label)
            }
        };
        &mut self.counts[slot]
    }

    pub fn sizes(self) -> Sizes {
        let order = self.slots.by_label();
        let labels = order.iter().map(|&slot| self.slots.labels[slot]).collect();
        Sizes { labels, counts: order.iter().map(|&slot| self.counts[slot]).collect(), cost: self.cost }
    }
}

impl Collector for Counting {
    #[inline]
    fn offer(&mut self, row: Row) {
        *self.count_of(row.label) += 1;
        self.cost = self.cost.saturating_add(row.cost);
    }

    fn merge(mut self, other: Counting) -> Counting {
        for (&label, count) in other.slots.labels.iter().zip(other.counts) {
            *self.count_of(label) += count;
        }
        self.cost = self.cost.saturating_add(other.cost);
        self
    }
}
