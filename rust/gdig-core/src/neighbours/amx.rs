//! AMX: scores of 32 rows by 32 columns at a time, in bfloat16.

use std::arch::x86_64::*;

use super::sift::Sift;
use crate::simd::x86_64::amx::Panels;
use crate::simd::x86_64::amx_bf16::{round_shifted, Bf16};
use crate::simd::x86_64::tile::{Line, Sums, Tiles, SIDE, STEP_LINES};

/// Columns as tiles.
pub struct Tiled {
    panels: Panels,
    /// [dim] zeros: what is subtracted before the rounding.
    zeros: Vec<f32>,
}

impl Tiled {
    /// Only where `Kernel::AmxBf16` is available.
    pub fn new(x: &[f32], dim: usize) -> Tiled {
        let zeros = vec![0f32; dim];
        let panels = Panels::new::<Bf16>(x.len() / dim, dim, |k, lines| {
            // SAFETY: the processor has AVX-512 with bfloat16, as the kernel is available.
            unsafe { round_shifted::<1>(&x[k * dim..][..dim], &zeros, lines) };
            (1.0, 0.0)
        });
        Tiled { panels, zeros }
    }

    /// # Safety
    /// The processor must have AVX-512 with bfloat16, and AMX.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn scan(&self, sift: &mut Sift) {
        let (dim, n) = (sift.dim, sift.thresholds.len());
        let (n_groups, group_lines) = (n.div_ceil(SIDE), self.panels.steps * STEP_LINES);
        let mut rows = vec![Line::ZERO; n_groups * group_lines];
        for (i, x) in sift.x.chunks_exact(dim).enumerate() {
            let first = i / SIDE * group_lines + i % SIDE;
            let to = &mut rows[first..][..(self.panels.steps - 1) * STEP_LINES + 1];
            round_shifted::<STEP_LINES>(x, &self.zeros, to);
        }
        let tiles = Tiles::new();
        let mut sums = [[Line::ZERO; 2 * SIDE]; 2];
        let [mut current, mut other] = sums.each_mut();
        let rows_a_step = SIDE.div_ceil(self.panels.steps);
        // The vector units look at one block's sums while the tile unit works on the next one's.
        let mut earlier = Look { sums: other, first_row: 0, first_column: 0, done: SIDE };
        for (panel, columns) in self.panels.tiles.chunks_exact(group_lines).enumerate() {
            for (group, rows) in rows.chunks_exact(group_lines).enumerate() {
                tiles.zero();
                for (rows, columns) in rows.chunks_exact(STEP_LINES).zip(columns.chunks_exact(STEP_LINES)) {
                    tiles.step_bf16(rows.as_ptr(), columns.as_ptr());
                    earlier.rows(rows_a_step, sift);
                }
                tiles.store(current);
                earlier = Look { sums: current, first_row: group * SIDE, first_column: panel * SIDE, done: 0 };
                std::mem::swap(&mut current, &mut other);
            }
        }
        earlier.rows(SIDE, sift);
    }
}

/// Looks at the sums of a block, row by row.
struct Look {
    sums: *const Sums,
    first_row: usize,
    first_column: usize,
    done: usize,
}

impl Look {
    /// The next `count` rows, if so many are left.
    ///
    /// # Safety
    /// The processor must have AVX-512, and `sums` must live and not be written to.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn rows(&mut self, count: usize, sift: &mut Sift) {
        let stop = SIDE.min(self.done + count).min(sift.thresholds.len() - self.first_row);
        while self.done < stop {
            let threshold = _mm512_set1_ps(sift.thresholds[self.first_row + self.done]);
            let scores: *const f32 = self.sums.cast::<f32>().add(self.done * SIDE);
            let reach = [0, 16].map(|at| _mm512_cmp_ps_mask::<_CMP_GE_OQ>(_mm512_load_ps(scores.add(at)), threshold));
            if (reach[0] | reach[1]) != 0 {
                let scores = std::slice::from_raw_parts(scores, SIDE);
                sift.take(self.first_row + self.done, self.first_column, scores);
            }
            self.done += 1;
        }
    }
}
