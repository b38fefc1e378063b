//! How many eligible rows each cluster has.

use super::slots::Slots;
use super::{Part, Row};

/// Clusters by rising label, and what they hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sizes {
    pub labels: Vec<usize>,
    /// Eligible rows of each, at least 1.
    pub counts: Vec<u64>,
    /// Their costs together.
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

impl Part for Counting {
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
