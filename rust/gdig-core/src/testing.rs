//! What the tests of several modules share: rows to compute with.

use bytemuck::{cast_slice, cast_slice_mut};

use crate::convert::{encode, Rows};
use crate::hash::{row_hash, unit};
use crate::rows::Source;
use crate::Dtype;

/// `n` rows of `dim` columns, in -1..1, in as many blobs as `blobs`.
pub fn data(n: usize, dim: usize, blobs: usize, random_seed: u64) -> Vec<f32> {
    let u = |i: usize, salt: u64| (unit(row_hash(random_seed ^ salt, i as u64)) * 2.0 - 1.0) as f32;
    let center = |row: usize, j: usize| u((row_hash(random_seed, row as u64) as usize % blobs) * dim + j, 77);
    (0..n * dim).map(|i| center(i / dim, i % dim) + 0.1 * u(i, 99)).collect()
}

pub fn array(x: &[f32], dim: usize) -> Source<'_> {
    Source::Array(Rows::new(Dtype::F32, dim, cast_slice(x), &[]).unwrap())
}

pub const DTYPES: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I8];

/// Rows in a type of the store, aligned.
pub struct Stored {
    bytes: Vec<u64>,
    len: usize,
    scales: Vec<f32>,
    dim: usize,
    dtype: Dtype,
}

impl Stored {
    pub fn new(x: &[f32], dim: usize, dtype: Dtype) -> Stored {
        let (mut encoded, mut scales) = (Vec::new(), Vec::new());
        encode(Rows::new(Dtype::F32, dim, cast_slice(x), &[]).unwrap(), dtype, 0, &mut encoded, &mut scales).unwrap();
        let (len, mut bytes) = (encoded.len(), vec![0u64; encoded.len().div_ceil(8)]);
        cast_slice_mut::<u64, u8>(&mut bytes)[..len].copy_from_slice(&encoded);
        Stored { bytes, len, scales, dim, dtype }
    }

    pub fn rows(&self) -> Rows<'_> {
        Rows::new(self.dtype, self.dim, &cast_slice(&self.bytes)[..self.len], &self.scales).unwrap()
    }

    /// Let a number of row `i` be `value`, or its scale, as no store would write it.
    pub fn spoil(&mut self, i: usize, column: usize, value: f32) {
        let at = i * self.dim + column;
        match self.dtype {
            Dtype::F32 => cast_slice_mut::<u64, f32>(&mut self.bytes)[at] = value,
            Dtype::F16 => cast_slice_mut::<u64, half::f16>(&mut self.bytes)[at] = half::f16::from_f32(value),
            Dtype::BF16 => cast_slice_mut::<u64, half::bf16>(&mut self.bytes)[at] = half::bf16::from_f32(value),
            _ => self.scales[i] = value,
        }
    }
}
