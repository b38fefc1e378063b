//! The int8 search of x86-64 without tiles: pairs of int16 with AVX2, bytes with AVX-VNNI and AVX-512 VNNI.
//!
//! VNNI multiplies unsigned bytes by signed ones. So 128 is added to the columns of rows, and 128 times the sum of a
//! centroid's columns is taken off.

use std::arch::x86_64::*;

use super::super::int8::panels::{dot, four, pair, Dot, Panels};
use super::super::multiply_add::Fused;
use super::super::{Nearest, Scratch};
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
        }

        impl Nearest for $name {
            fn block_rows(&self) -> usize {
                self.0.block_rows()
            }

            fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
                // SAFETY: `new` makes one only where the processor has the instructions.
                unsafe { self.search(rows, labels, scratch) }
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
    |c| four(c, 0x80),
    |c| four(c, 0),
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_set1_epi32,
    _mm256_dpbusd_avx_epi32
);
dot!(
    Bytes512,
    __m512i,
    16,
    4,
    128,
    |c| four(c, 0x80),
    |c| four(c, 0),
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_set1_epi32,
    _mm512_dpbusd_epi32
);
