//! What one pass over rows adds up, and its bytes on the way to another process.

use std::cmp::Reverse;

use rayon::prelude::*;

use crate::{Error, Result};

/// A row far from its centroid. The greatest is the farthest; of equally far ones, the first row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Far {
    /// Squared distance, as bits: for numbers that are not negative they sort alike.
    pub distance: u32,
    pub position: Reverse<usize>,
    pub label: u32,
}

/// What one pass over rows finds.
#[derive(Default)]
pub struct Pass<T> {
    /// Sums of each centroid's rows, [K, dim].
    pub sums: Vec<T>,
    pub counts: Vec<u64>,
    pub inertia: f64,
    /// The farthest rows, for clusters that are empty.
    pub far: Vec<Far>,
}

impl Pass<f64> {
    /// Add the sums of chunks in their order.
    pub fn fold(&mut self, partials: &mut [Pass<f32>], n_far: usize) {
        self.sums.par_chunks_mut(1 << 14).enumerate().for_each(|(i, sums)| {
            for partial in &*partials {
                let part = &partial.sums[i << 14..][..sums.len()];
                sums.iter_mut().zip(part).for_each(|(sum, &part)| *sum += f64::from(part));
            }
        });
        for partial in partials {
            self.counts.iter_mut().zip(&partial.counts).for_each(|(count, part)| *count += part);
            self.inertia += partial.inertia;
            self.far.append(&mut partial.far);
        }
        self.far.sort_unstable_by_key(|far| Reverse(*far));
        self.far.truncate(n_far);
    }
}

const FAR_BYTES: usize = 16;

impl Pass<f32> {
    /// sums f32, counts u64, inertia f64, how many rows are far u64, and these (distance u32, label u32, position u64) up
    /// to `n_far`, so that the length is known before.
    pub fn n_bytes(n_sums: usize, k: usize, n_far: usize) -> usize {
        4 * n_sums + 8 * k + 16 + FAR_BYTES * n_far
    }

    pub fn to_bytes(&self, n_far: usize) -> Vec<u8> {
        let length = Pass::n_bytes(self.sums.len(), self.counts.len(), n_far);
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(bytemuck::cast_slice(&self.sums));
        bytes.extend_from_slice(bytemuck::cast_slice(&self.counts));
        bytes.extend_from_slice(&self.inertia.to_ne_bytes());
        bytes.extend_from_slice(&(self.far.len() as u64).to_ne_bytes());
        for far in &self.far {
            bytes.extend_from_slice(&far.distance.to_ne_bytes());
            bytes.extend_from_slice(&far.label.to_ne_bytes());
            bytes.extend_from_slice(&(far.position.0 as u64).to_ne_bytes());
        }
        bytes.resize(length, 0);
        bytes
    }

    pub fn from_bytes(bytes: &[u8], n_sums: usize, k: usize, n_far: usize) -> Result<Pass<f32>> {
        let wrong = || Error::input("k-means: another process sent sums of another shape");
        if bytes.len() != Pass::n_bytes(n_sums, k, n_far) {
            return Err(wrong());
        }
        let (sums, rest) = bytes.split_at(4 * n_sums);
        let (counts, rest) = rest.split_at(8 * k);
        let word = |i: usize| <[u8; 8]>::try_from(&rest[8 * i..][..8]).expect("eight bytes");
        let found = u64::from_ne_bytes(word(1)) as usize;
        if found > n_far {
            return Err(wrong());
        }
        let far = (0..found).map(|i| {
            let (pair, position) = (word(2 + 2 * i), u64::from_ne_bytes(word(3 + 2 * i)) as usize);
            let half = |at: usize| u32::from_ne_bytes(pair[at..at + 4].try_into().expect("four bytes"));
            Far { distance: half(0), label: half(4), position: Reverse(position) }
        });
        Ok(Pass {
            sums: sums.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect(),
            counts: counts.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect(),
            inertia: f64::from_ne_bytes(word(0)),
            far: far.collect(),
        })
    }
}
