//! NEON's dot product of signed bytes: the int8 search, 6 rows by 16 centroids in 24 of the 32 registers.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::super::int8::panels::{four, Dot, Panels};
use super::super::multiply_add::Fused;
use super::super::{Nearest, Scratch};
use crate::convert::Rows;

pub fn has_dot_product() -> bool {
    is_aarch64_feature_detected!("dotprod")
}

pub struct NeonInt8(Panels<16>);

impl NeonInt8 {
    pub fn new(centroids: &[f32], dim: usize) -> Option<NeonInt8> {
        if !has_dot_product() {
            return None;
        }
        Panels::new::<Bytes>(centroids, dim).map(NeonInt8)
    }

    /// # Safety
    /// The processor must have the dot product.
    #[target_feature(enable = "dotprod")]
    unsafe fn search(&self, rows: Rows, labels: &mut [u32], scratch: &mut Scratch) {
        self.0.assign::<Bytes, Fused, 6, 4>(rows, labels, &mut scratch.int8);
    }
}

impl Nearest for NeonInt8 {
    fn block_rows(&self) -> usize {
        self.0.block_rows()
    }

    fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        // SAFETY: `new` makes one only where the processor has the instruction.
        unsafe { self.search(rows, labels, scratch) }
    }
}

struct Bytes;

impl Dot for Bytes {
    type Register = int32x4_t;
    const LANES: usize = 4;
    const COLUMNS: usize = 4;
    const SHIFT: i32 = 0;

    #[inline(always)]
    fn row_word(columns: &[i8]) -> i32 {
        four(columns, 0)
    }

    #[inline(always)]
    fn centroid_word(columns: &[i8]) -> i32 {
        four(columns, 0)
    }

    #[inline(always)]
    unsafe fn load(from: *const i32) -> int32x4_t {
        vld1q_s32(from)
    }

    #[inline(always)]
    unsafe fn store(register: int32x4_t, to: *mut i32) {
        vst1q_s32(to, register);
    }

    #[inline(always)]
    unsafe fn splat(word: i32) -> int32x4_t {
        vdupq_n_s32(word)
    }

    #[inline(always)]
    unsafe fn dot(sums: int32x4_t, row: int32x4_t, centroids: int32x4_t) -> int32x4_t {
        sdot(sums, row, centroids)
    }
}

/// In assembly as long as Rust's intrinsic for it is unstable.
///
/// # Safety
/// The processor must have the dot product.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn sdot(mut sums: int32x4_t, row: int32x4_t, centroids: int32x4_t) -> int32x4_t {
    asm!(
        "sdot {sums:v}.4s, {centroids:v}.16b, {row:v}.16b",
        sums = inout(vreg) sums,
        centroids = in(vreg) centroids,
        row = in(vreg) row,
        options(pure, nomem, nostack, preserves_flags)
    );
    sums
}
