//! The sums of a pass over rows, and their bytes on the way to another process.

use std::cmp::Reverse;

use rayon::prelude::*;

use crate::{Error, Result};

/// A row far from its centroid. The greatest is the farthest. Of equally far rows the first is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Far {
    /// The bits of the squared distance. Bits of non-negative numbers sort as the numbers do.
    pub distance: u32,
    pub position: Reverse<usize>,
    pub label: u32,
}

/// The sums of a pass over rows.
#[derive(Default)]
pub struct Pass<T> {
    /// The sum of the rows of each centroid, less the offset of the fit each, times their weights, [K, dim].
    pub sums: Vec<T>,
    pub counts: Vec<u64>,
    /// The sum of the weights of the rows of each centroid, [K]; empty in a fit without weights.
    pub weights: Vec<f64>,
    pub inertia: f64,
    /// The farthest rows, for empty clusters.
    pub far: Vec<Far>,
}

impl<T> Pass<T> {
    /// What the sums of a centroid are divided by.
    pub fn weight(&self, k: usize) -> f64 {
        self.weights.get(k).copied().unwrap_or(self.counts[k] as f64)
    }
}

impl Pass<f64> {
    /// Add the sums of chunks, in the order of the chunks.
    pub fn fold(&mut self, partials: &mut [Pass<f32>], n_far: usize) {
        self.sums.par_chunks_mut(1 << 14).enumerate().for_each(|(i, sums)| {
            for partial in &*partials {
                let added = &partial.sums[i << 14..][..sums.len()];
                sums.iter_mut().zip(added).for_each(|(sum, &x)| *sum += f64::from(x));
            }
        });
        for partial in partials {
            self.counts.iter_mut().zip(&partial.counts).for_each(|(count, rows)| *count += rows);
            self.weights.iter_mut().zip(&partial.weights).for_each(|(weight, rows)| *weight += rows);
            self.inertia += partial.inertia;
            self.far.append(&mut partial.far);
        }
        self.far.sort_unstable_by_key(|far| Reverse(*far));
        self.far.truncate(n_far);
    }
}

const FAR_BYTES: usize = 16;

impl Pass<f32> {
    /// The length of the bytes: sums f32, counts u64, inertia f64, number of far rows u64, and room for `n_far` far
    /// rows (distance u32, label u32, position u64). The length is fixed, so that the receiver knows it.
    pub fn n_bytes(n_sums: usize, k: usize, n_far: usize) -> usize {
        4 * n_sums + 8 * k + 16 + FAR_BYTES * n_far
    }

    pub fn to_bytes(&self, n_far: usize) -> Vec<u8> {
        assert!(self.weights.is_empty(), "several processes share a fit without weights");
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
        let wrong = || {
            Error::input(
                "k-means: another process sent sums of another shape; give all processes the same rows and options",
            )
        };
        if bytes.len() != Pass::n_bytes(n_sums, k, n_far) {
            return Err(wrong());
        }
        let (sums, rest) = bytes.split_at(4 * n_sums);
        let (counts, rest) = rest.split_at(8 * k);
        let word = |i: usize| <[u8; 8]>::try_from(&rest[8 * i..][..8]).expect("eight bytes");
        let n_rows = u64::from_ne_bytes(word(1)) as usize;
        if n_rows > n_far {
            return Err(wrong());
        }
        let far = (0..n_rows).map(|i| {
            let (pair, position) = (word(2 + 2 * i), u64::from_ne_bytes(word(3 + 2 * i)) as usize);
            let half = |at: usize| u32::from_ne_bytes(pair[at..at + 4].try_into().expect("four bytes"));
            Far { distance: half(0), label: half(4), position: Reverse(position) }
        });
        Ok(Pass {
            sums: sums.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect(),
            counts: counts.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect(),
            weights: Vec::new(),
            inertia: f64::from_ne_bytes(word(0)),
            far: far.collect(),
        })
    }
}
