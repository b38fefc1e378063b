//! AMX int8: the search of [`super::super::int8`] on tiles.

use std::arch::x86_64::*;

use super::super::int8::rounded;
use super::super::{Nearest, Scratch};
use super::amx::{Element, Panels};
use super::tile::{self, Line, Tiles, STEP_LINES};
use crate::convert::Rows;

pub struct AmxInt8(Panels);

impl AmxInt8 {
    pub fn new(centroids: &[f32], dim: usize) -> Option<AmxInt8> {
        let n_clusters = centroids.len() / dim;
        if !tile::has_int8() {
            return None;
        }
        let mut centroids = rounded(centroids, dim)?;
        let panels = Panels::new::<Int8>(n_clusters, dim, |_, lines| {
            let centroid = centroids.next().expect("one for each number");
            let bytes = lines.iter_mut().flat_map(|line| bytemuck::cast_slice_mut::<u32, i8>(&mut line.0));
            bytes.zip(&centroid.q).for_each(|(to, q)| *to = *q);
            (centroid.scale, centroid.offset)
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
