//! NEON: the float32 search, 6 rows by 16 centroids in 24 of the 32 registers. The baseline has fused multiply-add.

use super::super::generic::Centred;
use super::super::known::{KnownBlock, Moves};
use super::super::{Nearest, NearestKnown, Scratch};
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

    fn knowing(&self) -> Option<&dyn NearestKnown> {
        Some(self)
    }
}

impl NearestKnown for Neon {
    fn n_panels(&self) -> usize {
        self.0.n_panels()
    }

    fn moves(&self, centroids: &[f32], before: Option<&[f32]>) -> Moves {
        Moves::new(centroids, before, &self.0.middle, 16)
    }

    fn assign(&self, rows: Rows, moves: &Moves, known: KnownBlock, labels: &mut [u32], scratch: &mut Scratch) {
        self.0.assign_known::<6>(rows, moves, known, labels, &mut scratch.float32, &mut scratch.known);
    }
}
