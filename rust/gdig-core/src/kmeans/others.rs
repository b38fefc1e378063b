//! Several processes that add up the rows of one fit.
//!
//! The chunks whose sums are taken in float32 are the same as in one process. They come in waves, which are dealt out in
//! turns; the first process gets the sums of all chunks and adds them up in their order. So the bits are those of one.

use std::cmp::Reverse;

use super::lloyd::{self, Far, Pass};
use super::{on_training_rows, Options, Source};
use crate::interrupt::Supervisor;
use crate::{Error, Result};

/// The processes of one fit, as one of them sees them: `rank` 0 is in `fit_with`, the others are in `help`.
pub trait Others: Sync {
    fn rank(&self) -> usize;
    fn world(&self) -> usize;
    /// Rank 0: give all others the centroids [K, dim] of the next pass.
    fn give(&self, centroids: &[f32]) -> Result<()>;
    /// Others: wait for the centroids of the next pass; `None` when there is none.
    fn take(&self) -> Result<Option<Vec<f32>>>;
    /// Others: send this to rank 0.
    fn send(&self, bytes: &[u8]) -> Result<()>;
    /// Rank 0: wait for so many bytes from another one.
    fn receive(&self, from: usize, n_bytes: usize) -> Result<Vec<u8>>;
}

/// Add up this process's chunks in each pass of the fit that rank 0 does, until it has ended.
pub fn help(source: &Source, options: &Options, others: &dyn Others, supervisor: &Supervisor) -> Result<()> {
    on_training_rows(source, options, supervisor, |_, rows| {
        let mut partials = Vec::new();
        while let Some(centroids) = others.take()? {
            lloyd::help(rows, &centroids, options, &mut partials, others, supervisor)?;
        }
        Ok(())
    })
}

const FAR_BYTES: usize = 16;

impl Pass<f32> {
    /// sums f32, counts u64, inertia f64, how many rows are far u64, and these (distance u32, label u32, position u64) up
    /// to `n_far`, so that the length is known before.
    pub(super) fn n_bytes(n_sums: usize, k: usize, n_far: usize) -> usize {
        4 * n_sums + 8 * k + 16 + FAR_BYTES * n_far
    }

    pub(super) fn to_bytes(&self, n_far: usize) -> Vec<u8> {
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

    pub(super) fn from_bytes(bytes: &[u8], n_sums: usize, k: usize, n_far: usize) -> Result<Pass<f32>> {
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
