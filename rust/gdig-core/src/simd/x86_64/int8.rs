//! The int8 search of x86-64 without tiles: pairs of int16 with AVX2, bytes with AVX-VNNI and AVX-512 VNNI.
//!
//! VNNI multiplies unsigned bytes by signed ones. So 128 is added to the columns of centroids, and 128 times the sum of
//! a row's columns is taken off. Rows stay as they are, and are read where they are stored.

use std::arch::x86_64::*;

use super::super::best::Bests;
use super::super::int8::panels::{dot, four, pair, Dot, Panels, Scales};
use super::super::known::{KnownBlock, Moves};
use super::super::multiply_add::{Fused, MultiplyAdd};
use super::super::{Nearest, NearestKnown, Scratch};
use crate::convert::Rows;

pub fn has_avx_vnni() -> bool {
    super::has_avx2() && is_x86_feature_detected!("avxvnni")
}

pub fn has_avx512_vnni() -> bool {
    super::has_avx512() && is_x86_feature_detected!("avx512vnni")
}

/// A kernel of groups of rows by two registers of centroids.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $dot:ident, $has:path, $features:literal, $group:literal by $lanes:literal) => {
        $(#[$doc])*
        pub struct $name(Panels<$lanes>);

        impl $name {
            pub fn new(centroids: &[f32], dim: usize) -> Option<$name> {
                if !$has() {
                    return None;
                }
                Panels::new::<$dot>(centroids, dim).map($name)
            }

            /// # Safety
            /// The processor must have the instructions.
            #[target_feature(enable = $features)]
            unsafe fn search(&self, rows: Rows, labels: &mut [u32], scratch: &mut Scratch) {
                self.0.assign::<$dot, Fused, $group, 2>(rows, labels, &mut scratch.int8);
            }

            /// # Safety
            /// As of `search`.
            #[target_feature(enable = $features)]
            unsafe fn search_known(
                &self,
                rows: Rows,
                moves: &Moves,
                known: KnownBlock,
                labels: &mut [u32],
                scratch: &mut Scratch,
            ) {
                let scratch = (&mut scratch.int8, &mut scratch.known);
                self.0.assign_known::<$dot, Fused, $group, 2>(rows, moves, known, labels, scratch);
            }
        }

        impl Nearest for $name {
            fn block_rows(&self) -> usize {
                self.0.block_rows()
            }

            fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
                // SAFETY: `new` makes one only where the processor has the instructions.
                unsafe { self.search(rows, labels, scratch) }
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
                self.0.moves(centroids, before)
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
    Avx2Int8, Pairs256, super::has_avx2, "avx2,fma", 6 by 16
);
kernel!(
    /// As with AVX2.
    AvxVnniInt8, Bytes256, has_avx_vnni, "avx2,fma,avxvnni", 6 by 16
);
kernel!(
    /// 24 of the 32 registers hold sums.
    Avx512VnniInt8, Bytes512, has_avx512_vnni, "avx512f,avx512vnni", 12 by 32
);

dot!(
    Pairs256,
    __m256i,
    8,
    2,
    0,
    false,
    pair,
    pair,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_set1_epi32,
    |sums, row, centroids| _mm256_add_epi32(sums, _mm256_madd_epi16(row, centroids))
);
dot!(
    Bytes256,
    __m256i,
    8,
    4,
    128,
    true,
    |c| four(c, 0),
    |c| four(c, 0x80),
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_set1_epi32,
    |sums, row, centroids| _mm256_dpbusd_avx_epi32(sums, centroids, row)
);
dot!(
    Bytes512,
    __m512i,
    16,
    4,
    128,
    true,
    |c| four(c, 0),
    |c| four(c, 0x80),
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_set1_epi32,
    |sums, row, centroids| _mm512_dpbusd_epi32(sums, centroids, row),
    /// Of the two registers of a panel the better scores go to the first 16 lanes, with the numbers of their first lanes.
    /// The other 16 stay as they are.
    #[inline(always)]
    unsafe fn offer<M: MultiplyAdd, const LANES: usize>(
        sums: &[i32; LANES],
        row_scale: f32,
        panel: &Scales<LANES>,
        first: u32,
        (best, numbers): (&mut [f32; LANES], &mut [u32; LANES]),
    ) {
        const { assert!(LANES == 32) };
        let [low, high] = scores(sums, row_scale, panel);
        let upper = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(high, low);
        let number = |first: u32| _mm512_set1_epi32(first as i32);
        let number = _mm512_mask_mov_epi32(number(first), upper, number(first + 16));
        let score = _mm512_mask_mov_ps(low, upper, high);
        let (best, numbers) = (best.as_mut_ptr(), numbers.as_mut_ptr().cast::<i32>());
        let before = _mm512_loadu_ps(best);
        let better = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(score, before);
        // The minimum is the second number where one of them is none. It leads to no masked store, as a blend would.
        _mm512_storeu_ps(best, _mm512_min_ps(score, before));
        let number = _mm512_mask_mov_epi32(_mm512_loadu_si512(numbers.cast()), better, number);
        _mm512_storeu_si512(numbers.cast(), number);
    },
    #[inline(always)]
    unsafe fn scores<M: MultiplyAdd, const GROUP: usize, const LANES: usize>(
        sums: &[[i32; LANES]; GROUP],
        row_scales: &[f32; GROUP],
        panel: &Scales<LANES>,
        out: &mut [[f32; LANES]; GROUP],
    ) -> [f32; GROUP] {
        std::array::from_fn(|r| {
            let [low, high] = scores(&sums[r], row_scales[r], panel);
            _mm512_storeu_ps(out[r].as_mut_ptr(), low);
            _mm512_storeu_ps(out[r].as_mut_ptr().add(16), high);
            _mm512_reduce_min_ps(_mm512_min_ps(low, high))
        })
    },
    #[inline(always)]
    unsafe fn labels<const LANES: usize>(bests: &Bests, labels: &mut [u32]) {
        for (row, label) in labels.iter_mut().enumerate() {
            let (scores, numbers) = bests.of::<LANES>(row);
            let (scores, numbers) = (_mm512_loadu_ps(scores.as_ptr()), _mm512_loadu_si512(numbers.as_ptr().cast()));
            let best = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(scores, _mm512_set1_ps(_mm512_reduce_min_ps(scores)));
            let lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            *label = _mm512_mask_reduce_min_epu32(best, _mm512_add_epi32(numbers, lanes));
        }
    }
);

/// The scores of a row, 16 and 16.
///
/// # Safety
/// The processor must have AVX-512.
#[inline(always)]
unsafe fn scores<const LANES: usize>(sums: &[i32; LANES], row_scale: f32, panel: &Scales<LANES>) -> [__m512; 2] {
    const { assert!(LANES == 32) };
    [0, 16].map(|at| {
        let load = |from: &[f32; LANES]| _mm512_loadu_ps(from.as_ptr().add(at));
        let sums = _mm512_cvtepi32_ps(_mm512_loadu_si512(sums.as_ptr().add(at).cast()));
        let scaled = _mm512_mul_ps(sums, load(&panel.scales));
        _mm512_fnmadd_ps(scaled, _mm512_set1_ps(row_scale), load(&panel.offsets))
    })
}
