//! The plain search. Tests compare every kernel with it.

use super::{half_norms, Nearest, Scratch};
use crate::convert::Rows;

pub struct Scalar {
    dim: usize,
    centroids: Vec<f32>,
    half_norms: Vec<f32>,
}

impl Scalar {
    pub fn new(centroids: &[f32], dim: usize) -> Scalar {
        Scalar { dim, centroids: centroids.to_vec(), half_norms: half_norms(centroids, dim).collect() }
    }
}

impl Nearest for Scalar {
    fn block_rows(&self) -> usize {
        32
    }

    fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], _scratch: &mut Scratch) {
        let mut x = vec![0f32; self.dim];
        for (i, label) in labels.iter_mut().enumerate() {
            rows.slice(i, i + 1).decode(&mut x);
            let mut best = f32::INFINITY;
            *label = 0;
            for (k, (c, half_norm)) in self.centroids.chunks_exact(self.dim).zip(&self.half_norms).enumerate() {
                let dot = x.iter().zip(c).fold(0f32, |dot, (x, c)| x.mul_add(*c, dot));
                let score = half_norm - dot;
                if score < best {
                    (best, *label) = (score, k as u32);
                }
            }
        }
    }
}
