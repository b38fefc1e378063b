//! AMX int8, for rows that are stored as int8 with a scale each.
//!
//! With m the mean of the centroids, c - m is rounded to t q_c, q_c of int8 and t = max|c - m| / 127 for each centroid,
//! and the score of a row s q_x is s t (q_x . q_c) - (|c|^2 - |m|^2)/2: x.c - |c|^2/2 up to a number that all centroids
//! share. The product is exact; a score is off by at most |s| t |q_x|_1 (1/2 + 127 . 2^-22) + 2^-23 |offset|.

use std::arch::x86_64::*;

use super::super::{Nearest, Scratch};
use super::amx::{Element, Panels};
use super::amx_bf16::mean;
use super::tile::{self, Line, Tiles, STEP_LINES};
use crate::convert::Rows;

pub struct AmxInt8(Panels);

impl AmxInt8 {
    pub fn new(centroids: &[f32], dim: usize) -> Option<AmxInt8> {
        // Stored rows reach -128 in other programs' hands; then the sums stay below 2^31.
        if !tile::has_int8() || dim > i32::MAX as usize / (128 * 127) {
            return None;
        }
        let middle = mean(centroids, dim);
        let squared_norm = |v: &[f32]| v.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
        let middle_norm = squared_norm(&middle);
        let panels = Panels::new::<Int8>(centroids.len() / dim, dim, |k, lines| {
            let centroid = &centroids[k * dim..][..dim];
            let shifted = || centroid.iter().zip(&middle).map(|(c, m)| c - m);
            let scale = shifted().fold(0f32, |most, c| most.max(c.abs())) / 127.0;
            let bytes = lines.iter_mut().flat_map(|line| bytemuck::cast_slice_mut::<u32, i8>(&mut line.0));
            // A cast of NaN, of a centroid that is all m, is zero.
            bytes.zip(shifted()).for_each(|(to, c)| *to = (c / scale).round_ties_even() as i8);
            (scale, ((squared_norm(centroid) - middle_norm) / 2.0) as f32)
        });
        Some(AmxInt8(panels))
    }

    /// # Safety
    /// The processor must have AVX-512 and AMX.
    #[target_feature(enable = "avx512f")]
    unsafe fn search(&self, rows: Rows, ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        let pack = |rows: Rows, _: &mut Vec<f32>, i: usize, to: &mut [Line]| {
            let dim = rows.dim();
            let row = &rows.bytes()[i * dim..(i + 1) * dim];
            for (from, line) in row.chunks(Line::BYTES).zip(to.iter_mut().step_by(STEP_LINES)) {
                if let Ok(whole) = <&[u8; Line::BYTES]>::try_from(from) {
                    line.0 = bytemuck::cast(*whole);
                } else {
                    line.0 = [0; 16];
                    bytemuck::cast_slice_mut::<u32, u8>(&mut line.0)[..from.len()].copy_from_slice(from);
                }
            }
            rows.scales()[i]
        };
        self.0.search::<Int8>(rows, ahead, labels, &mut scratch.tiles, pack);
    }
}

impl Nearest for AmxInt8 {
    fn block_rows(&self) -> usize {
        self.0.block_rows()
    }

    fn assign(&self, rows: Rows, ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        assert_eq!(rows.dtype(), crate::Dtype::I8);
        // SAFETY: `new` makes one only where the processor has the instructions.
        unsafe { self.search(rows, ahead, labels, scratch) }
    }
}

struct Int8;

impl Element for Int8 {
    const PER_LINE: usize = 64;

    #[inline(always)]
    unsafe fn step(tiles: &Tiles, rows: *const Line, centroids: *const Line) {
        tiles.step_int8(rows, centroids);
    }

    #[inline(always)]
    unsafe fn score(sums: __m512i, row_scale: f32, scale: __m512, offset: __m512) -> __m512 {
        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scale);
        _mm512_fmsub_ps(scaled, _mm512_set1_ps(row_scale), offset)
    }
}
