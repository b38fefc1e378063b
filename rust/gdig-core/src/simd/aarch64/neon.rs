//! NEON: the float32 search, 6 rows by 16 centroids in 24 of the 32 registers. The baseline has fused multiply-add.

use super::super::generic::Centred;
use super::super::{Nearest, Scratch};
use crate::convert::Rows;

pub struct Neon(Centred<16>);

impl Neon {
    pub fn new(centroids: &[f32], dim: usize) -> Neon {
        Neon(Centred::new(centroids, dim))
    }
}

impl Nearest for Neon {
    fn block_rows(&self) -> usize {
        self.0.block_rows()
    }

    fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        self.0.assign::<6>(rows, labels, &mut scratch.float32);
    }
}
