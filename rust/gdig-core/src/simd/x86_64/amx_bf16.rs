//! AMX bfloat16.
//!
//! With m the mean of the centroids, the score is x'.c' - |c'|^2/2, where x' = bf16(x - m) and c' = bf16(c - m) in the
//! product and c' = c - m in the norm: the subtraction changes no order of centroids, and makes the rounding relative
//! to how far rows lie from the middle, not from the origin. A score is off by at most
//! (2^-7 + 2^-16 + (dim + 3) 2^-23) |x - m||c - m| + 2^-23 |c - m|^2, so the chosen centroid is the nearest unless two
//! scores are closer than twice that.

use std::arch::x86_64::*;

use super::super::middle::mean;
use super::super::{half_norms, Nearest, Scratch};
use super::amx::{Element, Panels};
use super::half_avx512;
use super::tile::{self, Line, Tiles, STEP_LINES};
use crate::convert::Rows;

pub struct AmxBf16 {
    panels: Panels,
    /// m, [dim].
    middle: Vec<f32>,
}

impl AmxBf16 {
    pub fn new(centroids: &[f32], dim: usize) -> Option<AmxBf16> {
        if !tile::has_bf16() {
            return None;
        }
        let middle = mean(centroids, dim);
        let zeros = vec![0f32; dim];
        let panels = Panels::new::<Bf16>(centroids.len() / dim, dim, |k, lines| {
            let shifted: Vec<f32> = centroids[k * dim..][..dim].iter().zip(&middle).map(|(c, m)| c - m).collect();
            // SAFETY: the processor has AVX-512 with bfloat16, or `has_bf16` would have said no.
            unsafe { round_shifted::<1>(&shifted, &zeros, lines) };
            let half_norm = half_norms(&shifted, dim).next();
            (1.0, half_norm.expect("one centroid"))
        });
        Some(AmxBf16 { panels, middle })
    }

    /// # Safety
    /// The processor must have AVX-512 with bfloat16, and AMX.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn search(&self, rows: Rows, ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        let pack = |rows: Rows, x: &mut Vec<f32>, i: usize, to: &mut [Line]| {
            x.resize(self.middle.len(), 0.0);
            rows.decode_row(i, x, |from, to| half_avx512(from, to));
            round_shifted::<STEP_LINES>(x, &self.middle, to);
            1.0
        };
        self.panels.search::<Bf16>(rows, ahead, labels, &mut scratch.tiles, pack);
    }
}

impl Nearest for AmxBf16 {
    fn block_rows(&self) -> usize {
        self.panels.block_rows()
    }

    fn assign(&self, rows: Rows, ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        // SAFETY: `new` makes one only where the processor has the instructions.
        unsafe { self.search(rows, ahead, labels, scratch) }
    }
}

/// bf16(x - m) to every `STRIDE`-th line, zeros behind it.
///
/// # Safety
/// The processor must have AVX-512 with bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn round_shifted<const STRIDE: usize>(x: &[f32], m: &[f32], to: &mut [Line]) {
    let lines = to.iter_mut().step_by(STRIDE);
    for ((x, m), line) in x.chunks(Bf16::PER_LINE).zip(m.chunks(Bf16::PER_LINE)).zip(lines) {
        let mask = u32::MAX >> (Bf16::PER_LINE - x.len());
        let half = |at: usize, mask: u16| {
            // The mask lets no lane beyond the slices be read.
            let (x, m) = (x.as_ptr().wrapping_add(at), m.as_ptr().wrapping_add(at));
            _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x), _mm512_maskz_loadu_ps(mask, m))
        };
        let rounded = _mm512_cvtne2ps_pbh(half(16, (mask >> 16) as u16), half(0, mask as u16));
        *line = std::mem::transmute::<__m512bh, Line>(rounded);
    }
}

pub struct Bf16;

impl Element for Bf16 {
    const PER_LINE: usize = 32;

    #[inline(always)]
    unsafe fn step(tiles: &Tiles, rows: *const Line, centroids: *const Line) {
        tiles.step_bf16(rows, centroids);
    }

    #[inline(always)]
    unsafe fn score(sums: __m512i, _row_scale: f32, _scale: __m512, offset: __m512) -> __m512 {
        _mm512_sub_ps(_mm512_castsi512_ps(sums), offset)
    }
}
