//! The int8 search of 64-bit ARM, 6 rows by 16 centroids in 24 of the 32 registers: by the dot product of four signed
//! bytes, and by the product of two rows and two centroids of eight.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::super::int8::panels::{four, Dot, Panels};
use super::super::known::{KnownBlock, Moves};
use super::super::multiply_add::Fused;
use super::super::{Nearest, NearestKnown, Scratch};
use crate::convert::Rows;

pub fn has_dot_product() -> bool {
    is_aarch64_feature_detected!("dotprod")
}

pub fn has_i8mm() -> bool {
    is_aarch64_feature_detected!("i8mm")
}

macro_rules! kernel {
    ($name:ident, $dot:ident, $has:ident, $feature:literal) => {
        pub struct $name(Panels<16>);

        impl $name {
            pub fn new(centroids: &[f32], dim: usize) -> Option<$name> {
                if !$has() {
                    return None;
                }
                Panels::new::<$dot>(centroids, dim).map($name)
            }

            /// # Safety
            /// The processor must have the instruction.
            #[target_feature(enable = $feature)]
            unsafe fn search(&self, rows: Rows, labels: &mut [u32], scratch: &mut Scratch) {
                self.0.assign::<$dot, Fused, 6, 4>(rows, labels, &mut scratch.int8);
            }

            /// # Safety
            /// As of `search`.
            #[target_feature(enable = $feature)]
            unsafe fn search_known(
                &self,
                rows: Rows,
                moves: &Moves,
                known: KnownBlock,
                labels: &mut [u32],
                scratch: &mut Scratch,
            ) {
                let scratch = (&mut scratch.int8, &mut scratch.known);
                self.0.assign_known::<$dot, Fused, 6, 4>(rows, moves, known, labels, scratch);
            }
        }

        impl Nearest for $name {
            fn block_rows(&self) -> usize {
                self.0.block_rows()
            }

            fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
                // SAFETY: `new` makes one only where the processor has the instruction.
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

kernel!(NeonInt8, Bytes, has_dot_product, "dotprod");
kernel!(NeonI8mmInt8, Squares, has_i8mm, "i8mm");

/// What the two dot steps share: words of four signed bytes.
macro_rules! four_bytes {
    ($instruction:ident) => {
        type Register = int32x4_t;
        const LANES: usize = 4;
        const COLUMNS: usize = 4;
        const IN_PLACE: bool = true;

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
            $instruction(sums, row, centroids)
        }
    };
}

pub struct Bytes;

impl Dot for Bytes {
    four_bytes!(sdot);
}

/// Products of two rows by two centroids, of eight columns: two words side by side.
pub struct Squares;

impl Dot for Squares {
    four_bytes!(smmla);
    const BESIDE: usize = 2;

    #[inline(always)]
    unsafe fn sums<const GROUP: usize, const REGISTERS: usize, const LANES: usize>(
        rows: [*const i32; GROUP],
        _starts: [i32; GROUP],
        panel: &[i32],
    ) -> [[i32; LANES]; GROUP] {
        const { assert!(GROUP == 6 && LANES == 16) };
        let mut sums = [[vdupq_n_s32(0); 3]; 8];
        for (step, c) in panel.chunks_exact(2 * LANES).enumerate() {
            // Eight columns of a row, then of the next one.
            let rows = [0, 2, 4].map(|r| [rows[r], rows[r + 1]].map(|row| vld1_s32(row.add(2 * step))));
            let rows = rows.map(|[row, next]| vcombine_s32(row, next));
            for (i, sums) in sums.iter_mut().enumerate() {
                let centroids = vld1q_s32(c.as_ptr().add(4 * i));
                for (sums, rows) in sums.iter_mut().zip(rows) {
                    *sums = smmla(*sums, rows, centroids);
                }
            }
        }
        let mut out = [[0i32; LANES]; GROUP];
        for (i, sums) in sums.iter().enumerate() {
            for (r, sums) in sums.iter().enumerate() {
                // Two centroids of a row, then of the next one.
                vst1_s32(out[2 * r].as_mut_ptr().add(2 * i), vget_low_s32(*sums));
                vst1_s32(out[2 * r + 1].as_mut_ptr().add(2 * i), vget_high_s32(*sums));
            }
        }
        out
    }
}

/// In assembly as long as Rust's intrinsics for it are unstable.
macro_rules! instruction {
    ($name:ident, $feature:literal) => {
        /// # Safety
        /// The processor must have the instruction.
        #[inline]
        #[target_feature(enable = $feature)]
        unsafe fn $name(mut sums: int32x4_t, row: int32x4_t, centroids: int32x4_t) -> int32x4_t {
            asm!(
                concat!(stringify!($name), " {sums:v}.4s, {row:v}.16b, {centroids:v}.16b"),
                sums = inout(vreg) sums,
                centroids = in(vreg) centroids,
                row = in(vreg) row,
                options(pure, nomem, nostack, preserves_flags)
            );
            sums
        }
    };
}

instruction!(sdot, "dotprod");
instruction!(smmla, "i8mm");
