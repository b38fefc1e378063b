//! The plain search. Tests compare every kernel with it.

use super::middle::middle;
use super::{half_norms, shifted, Nearest, Scratch};
use crate::convert::Rows;

pub struct Scalar {
    middle: Vec<f32>,
    centroids: Vec<f32>,
    half_norms: Vec<f32>,
}

impl Scalar {
    pub fn new(centroids: &[f32], dim: usize) -> Scalar {
        let middle = middle(centroids, dim);
        let centroids = shifted(centroids, &middle);
        let half_norms = half_norms(&centroids, dim).collect();
        Scalar { middle, centroids, half_norms }
    }
}

impl Nearest for Scalar {
    fn block_rows(&self) -> usize {
        32
    }

    fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], _scratch: &mut Scratch) {
        let dim = self.middle.len();
        let mut x = vec![0f32; dim];
        for (i, label) in labels.iter_mut().enumerate() {
            rows.slice(i, i + 1).decode(&mut x);
            x.iter_mut().zip(&self.middle).for_each(|(x, m)| *x -= m);
            let mut best = f32::INFINITY;
            *label = 0;
            for (k, (c, half_norm)) in self.centroids.chunks_exact(dim).zip(&self.half_norms).enumerate() {
                let dot = x.iter().zip(c).fold(0f32, |dot, (x, c)| x.mul_add(*c, dot));
                let score = half_norm - dot;
                if score < best {
                    (best, *label) = (score, k as u32);
                }
            }
        }
    }
}
