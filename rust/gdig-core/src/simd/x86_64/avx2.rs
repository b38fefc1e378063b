//! AVX2 and FMA: the float32 search, 6 rows by 16 centroids in 12 of the 16 registers.

use super::super::generic::{Centred, F32Scratch};
use super::super::known::{KnownBlock, Moves};
use super::super::{Nearest, NearestKnown, Scratch};
use crate::convert::Rows;

pub struct Avx2(Centred<16>);

impl Avx2 {
    pub fn new(centroids: &[f32], dim: usize) -> Option<Avx2> {
        super::has_avx2().then(|| Avx2(Centred::new(centroids, dim)))
    }

    #[target_feature(enable = "avx2,fma")]
    fn search_known(
        &self,
        rows: Rows,
        moves: &Moves,
        mut known: KnownBlock,
        labels: &mut [u32],
        scratch: &mut Scratch,
    ) {
        self.0.assign_known::<6>(rows, moves, &mut known, labels, &mut scratch.float32, &mut scratch.known);
    }

    #[target_feature(enable = "avx2,fma")]
    fn search(&self, rows: Rows, labels: &mut [u32], scratch: &mut F32Scratch) {
        self.0.assign::<6>(rows, labels, scratch);
    }
}

impl Nearest for Avx2 {
    fn block_rows(&self) -> usize {
        self.0.block_rows()
    }

    fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        // SAFETY: `new` makes one only where the processor has the instructions.
        unsafe { self.search(rows, labels, &mut scratch.float32) }
    }

    fn knowing(&self) -> Option<&dyn NearestKnown> {
        Some(self)
    }
}

impl NearestKnown for Avx2 {
    fn n_panels(&self) -> usize {
        self.0.n_panels()
    }

    fn moves(&self, centroids: &[f32], before: Option<&[f32]>) -> Moves {
        self.0.moves(centroids, before)
    }

    fn assign(&self, rows: Rows, moves: &Moves, known: KnownBlock, labels: &mut [u32], scratch: &mut Scratch) {
        // SAFETY: as above.
        unsafe { self.search_known(rows, moves, known, labels, scratch) }
    }
}
