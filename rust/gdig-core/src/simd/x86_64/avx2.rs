//! AVX2 and FMA: the float32 search, 6 rows by 16 centroids in 12 of the 16 registers.

use super::super::generic::{Centred, F32Scratch};
use super::super::{Nearest, Scratch};
use crate::convert::Rows;

pub struct Avx2(Centred<16>);

impl Avx2 {
    pub fn new(centroids: &[f32], dim: usize) -> Option<Avx2> {
        super::has_avx2().then(|| Avx2(Centred::new(centroids, dim)))
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
}
