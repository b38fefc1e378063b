//! The float32 search of x86-64 without tiles: AVX2 with FMA, and AVX-512.

use super::super::generic::{Centred, F32Scratch};
use super::super::known::{KnownBlock, Moves};
use super::super::{Nearest, NearestKnown, Scratch};
use crate::convert::Rows;

/// A kernel of groups of rows by two registers of centroids.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $has:path, $features:literal, $group:literal by $lanes:literal) => {
        $(#[$doc])*
        pub struct $name(Centred<$lanes>);

        impl $name {
            pub fn new(centroids: &[f32], dim: usize) -> Option<$name> {
                $has().then(|| $name(Centred::new(centroids, dim)))
            }

            #[target_feature(enable = $features)]
            fn search(&self, rows: Rows, labels: &mut [u32], scratch: &mut F32Scratch) {
                self.0.assign::<$group>(rows, labels, scratch);
            }

            #[target_feature(enable = $features)]
            fn search_known(
                &self,
                rows: Rows,
                moves: &Moves,
                known: KnownBlock,
                labels: &mut [u32],
                scratch: &mut Scratch,
            ) {
                self.0.assign_known::<$group>(rows, moves, known, labels, &mut scratch.float32, &mut scratch.known);
            }
        }

        impl Nearest for $name {
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

        impl NearestKnown for $name {
            fn n_panels(&self) -> usize {
                self.0.n_panels()
            }

            fn moves(&self, centroids: &[f32], before: Option<&[f32]>) -> Moves {
                Moves::new(centroids, before, &self.0.middle, $lanes)
            }

            fn assign(&self, rows: Rows, moves: &Moves, known: KnownBlock, labels: &mut [u32], scratch: &mut Scratch) {
                // SAFETY: as above.
                unsafe { self.search_known(rows, moves, known, labels, scratch) }
            }
        }
    };
}

kernel!(
    /// 12 of the 16 registers hold sums.
    Avx2, super::has_avx2, "avx2,fma", 6 by 16
);
kernel!(
    /// 24 of the 32 registers hold sums.
    Avx512, super::has_avx512, "avx512f", 12 by 32
);
