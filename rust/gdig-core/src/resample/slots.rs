//! A slot number for each label that occurs. Memory grows with the number of clusters, not with the labels.

use std::collections::HashMap;

/// Labels below this number are looked up in an array, other labels in a hash map.
const NEAR: usize = 1 << 20;
const NONE: u32 = u32::MAX;

#[derive(Default)]
pub struct Slots {
    near: Vec<u32>,
    far: HashMap<usize, u32>,
    /// The label of each slot.
    pub labels: Vec<usize>,
}

impl Slots {
    #[inline]
    pub fn get(&self, label: usize) -> Option<usize> {
        let slot = match self.near.get(label) {
            Some(&slot) => slot,
            None => self.get_far(label),
        };
        (slot != NONE).then_some(slot as usize)
    }

    #[inline(never)]
    fn get_far(&self, label: usize) -> u32 {
        self.far.get(&label).copied().unwrap_or(NONE)
    }

    /// A slot for a label that has none.
    #[cold]
    pub fn add(&mut self, label: usize) -> usize {
        let slot = self.labels.len();
        self.labels.push(label);
        if label < NEAR {
            if label >= self.near.len() {
                self.near.resize(label + 1, NONE);
            }
            self.near[label] = slot as u32;
        } else {
            self.far.insert(label, slot as u32);
        }
        slot
    }

    /// Slots in the order of their labels.
    pub fn by_label(&self) -> Vec<usize> {
        let mut slots: Vec<usize> = (0..self.labels.len()).collect();
        slots.sort_unstable_by_key(|&slot| self.labels[slot]);
        slots
    }
}
