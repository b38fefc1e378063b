//! What the AMX searches share: centroids and rows as tiles, and the search over 32 rows by 32 centroids at a time.

use std::arch::x86_64::*;

use super::tile::{Line, Sums, Tiles, SIDE, STEP_LINES};
use crate::convert::Rows;

/// Packed centroids up to this size stay in a common second-level cache beside a block of rows: then small blocks do,
/// else each panel that comes from farther away should meet many rows.
const NEAR_BYTES: usize = 1 << 20;
const NEAR_ROWS: usize = 64;
const FAR_ROWS: usize = 256;

/// What differs between bfloat16 and int8.
pub trait Element {
    /// Elements in a line.
    const PER_LINE: usize;

    /// # Safety
    /// As of `Tiles::step_bf16`.
    unsafe fn step(tiles: &Tiles, rows: *const Line, centroids: *const Line);

    /// Scores of a row and 16 centroids: x.c - |c|^2/2 up to what all centroids have in common.
    ///
    /// # Safety
    /// The processor must have AVX-512.
    unsafe fn score(sums: __m512i, row_scale: f32, scale: __m512, offset: __m512) -> __m512;
}

/// Centroids as tiles.
pub struct Panels {
    /// Steps of 64 bytes that a row takes.
    pub steps: usize,
    /// [panels of SIDE centroids][steps][2][16 lines]; line r of a tile holds the r-th 4 bytes of its 16 centroids.
    pub tiles: Vec<Line>,
    /// Of each centroid, filled up to whole panels. An infinite offset keeps rows away from what was filled up.
    scales: Vec<f32>,
    offsets: Vec<f32>,
}

#[derive(Default)]
pub struct TileScratch {
    /// [groups of SIDE rows][steps][2][16 lines]
    rows: Vec<Line>,
    row_scales: Vec<f32>,
    /// Of each row and each of 16 lanes: the best score, and the number of its centroid.
    best: Vec<Best>,
    /// A row in float32.
    pub x: Vec<f32>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Best {
    score: [f32; 16],
    arg: [u32; 16],
}

impl Panels {
    /// `lines` writes a centroid's elements, zeros behind them, and returns its scale and offset.
    pub fn new<E: Element>(
        n_clusters: usize,
        dim: usize,
        mut pack: impl FnMut(usize, &mut [Line]) -> (f32, f32),
    ) -> Panels {
        let steps = dim.div_ceil(E::PER_LINE);
        let padded = n_clusters.next_multiple_of(SIDE);
        let mut tiles = vec![Line::ZERO; padded * steps];
        let (mut scales, mut offsets) = (vec![0f32; padded], vec![f32::INFINITY; padded]);
        let mut lines = vec![Line::ZERO; steps];
        for k in 0..n_clusters {
            (scales[k], offsets[k]) = pack(k, &mut lines);
            for (step, line) in lines.iter().enumerate() {
                let tile = &mut tiles[(k / SIDE * steps + step) * STEP_LINES + k % SIDE / 16 * 16..][..16];
                tile.iter_mut().zip(line.0).for_each(|(to, word)| to.0[k % 16] = word);
            }
        }
        Panels { steps, tiles, scales, offsets }
    }

    pub fn block_rows(&self) -> usize {
        if self.tiles.len() * Line::BYTES <= NEAR_BYTES {
            NEAR_ROWS
        } else {
            FAR_ROWS
        }
    }

    /// `pack(rows, x, i, to)` writes the elements of row `i` to every `STEP_LINES`-th line of `to`, and returns the
    /// row's scale.
    ///
    /// # Safety
    /// The processor must have what `E` asks for, AVX-512 included; `pack` must have the same.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn search<E: Element>(
        &self,
        rows: Rows,
        ahead: &[u8],
        labels: &mut [u32],
        scratch: &mut TileScratch,
        mut pack: impl FnMut(Rows, &mut Vec<f32>, usize, &mut [Line]) -> f32,
    ) {
        let n_groups = labels.len().div_ceil(SIDE);
        let group_lines = self.steps * STEP_LINES;
        // Lines that no row fills may hold an earlier block's numbers: what becomes of them is not looked at.
        scratch.rows.resize(scratch.rows.len().max(n_groups * group_lines), Line::ZERO);
        scratch.row_scales.resize(scratch.row_scales.len().max(n_groups * SIDE), 0.0);
        for i in 0..labels.len() {
            let first = i / SIDE * group_lines + i % SIDE;
            let to = &mut scratch.rows[first..][..(self.steps - 1) * STEP_LINES + 1];
            scratch.row_scales[i] = pack(rows, &mut scratch.x, i, to);
        }
        scratch.best.clear();
        scratch.best.resize(n_groups * SIDE, Best { score: [f32::NEG_INFINITY; 16], arg: [0; 16] });
        let n_panels = self.offsets.len() / SIDE;
        let mut ahead = Ahead::new(ahead, n_panels * n_groups * SIDE);

        let tiles = Tiles::new();
        let mut sums = [[Line::ZERO; 2 * SIDE]; 2];
        let [mut current, mut other] = sums.each_mut();
        // The vector units compare one block's sums while the tile unit works on the next one's.
        let mut earlier = Comparison::none();
        let rows_a_step = SIDE.div_ceil(self.steps);
        for panel in 0..n_panels {
            for group in 0..n_groups {
                tiles.zero();
                let rows = scratch.rows[group * group_lines..][..group_lines].chunks_exact(STEP_LINES);
                let centroids = self.tiles[panel * group_lines..][..group_lines].chunks_exact(STEP_LINES);
                for (rows, centroids) in rows.zip(centroids) {
                    E::step(&tiles, rows.as_ptr(), centroids.as_ptr());
                    for _ in 0..rows_a_step {
                        earlier.row::<E>(&mut ahead);
                    }
                }
                tiles.store(current);
                let row_scales = &scratch.row_scales[group * SIDE..][..SIDE];
                let best = &mut scratch.best[group * SIDE..][..SIDE];
                earlier = Comparison::new(self, panel, current, row_scales, best);
                std::mem::swap(&mut current, &mut other);
            }
        }
        for _ in 0..SIDE {
            earlier.row::<E>(&mut ahead);
        }
        drop(tiles);
        for (label, best) in labels.iter_mut().zip(&scratch.best) {
            *label = best.label();
        }
    }
}

/// Lets the scores of a panel into the best of a group of rows, row by row. Panels come in ascending order: of equal
/// scores in a lane the first stays.
struct Comparison {
    /// Of the rows left, and how many these are.
    sums: *const [Line; 2],
    row_scales: *const f32,
    best: *mut Best,
    remaining: usize,
    /// Of the panel's two halves.
    scales: [__m512; 2],
    offsets: [__m512; 2],
    numbers: [__m512i; 2],
}

impl Comparison {
    /// Of no rows.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn none() -> Comparison {
        let (zero, zeros) = (_mm512_setzero_ps(), [_mm512_setzero_si512(); 2]);
        let (sums, row_scales, best) = (std::ptr::null(), std::ptr::null(), std::ptr::null_mut());
        Comparison { sums, row_scales, best, remaining: 0, scales: [zero; 2], offsets: [zero; 2], numbers: zeros }
    }

    /// # Safety
    /// The processor must have AVX-512. The slices must live, and nobody else use them, until the last call of `row`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn new(panels: &Panels, panel: usize, sums: &Sums, row_scales: &[f32], best: &mut [Best]) -> Comparison {
        let (scales, offsets) = (&panels.scales[panel * SIDE..][..SIDE], &panels.offsets[panel * SIDE..][..SIDE]);
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        Comparison {
            sums: sums.as_ptr().cast(),
            remaining: row_scales.len().min(best.len()).min(SIDE),
            row_scales: row_scales.as_ptr(),
            best: best.as_mut_ptr(),
            scales: [0, 16].map(|at| _mm512_loadu_ps(scales[at..].as_ptr())),
            offsets: [0, 16].map(|at| _mm512_loadu_ps(offsets[at..].as_ptr())),
            numbers: [0, 16].map(|at| _mm512_add_epi32(lanes, _mm512_set1_epi32((panel * SIDE + at) as i32))),
        }
    }

    /// Compare the next row's, if there is one.
    ///
    /// # Safety
    /// As of `new`, and the processor must have what `E` asks for.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn row<E: Element>(&mut self, ahead: &mut Ahead) {
        if self.remaining == 0 {
            return;
        }
        ahead.prefetch();
        // SAFETY: `left` counts the elements of each of the three slices.
        let (sums, row_scale, best) = (&*self.sums, *self.row_scales, &mut *self.best);
        let [a, b] = [0, 1].map(|half| {
            let sums = _mm512_load_si512(sums[half].0.as_ptr().cast());
            E::score(sums, row_scale, self.scales[half], self.offsets[half])
        });
        let upper = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(b, a);
        let score = _mm512_max_ps(b, a);
        let number = _mm512_mask_mov_epi32(self.numbers[0], upper, self.numbers[1]);
        let better = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(score, _mm512_load_ps(best.score.as_ptr()));
        _mm512_mask_store_ps(best.score.as_mut_ptr(), better, score);
        _mm512_mask_store_epi32(best.arg.as_mut_ptr().cast(), better, number);
        (self.sums, self.row_scales, self.best) = (self.sums.add(1), self.row_scales.add(1), self.best.add(1));
        self.remaining -= 1;
    }
}

impl Best {
    /// The lower centroid of those with the best score.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn label(&self) -> u32 {
        // SAFETY: 16 of either, and the first of them aligned to 64 bytes, as is then the second.
        let (score, arg) =
            unsafe { (_mm512_load_ps(self.score.as_ptr()), _mm512_load_si512(self.arg.as_ptr().cast())) };
        let ties = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(score, _mm512_set1_ps(_mm512_reduce_max_ps(score)));
        _mm512_mask_reduce_min_epu32(ties, arg)
    }
}

/// Fetches what will be read next into the second-level cache, a few lines at a time. Memory that is not there, such as
/// a page of a file not yet read, is passed over by the processor.
struct Ahead {
    next: *const i8,
    lines: usize,
    at_once: usize,
}

impl Ahead {
    /// In about so many calls of `prefetch`.
    fn new(bytes: &[u8], calls: usize) -> Ahead {
        let lines = bytes.len() / Line::BYTES;
        Ahead { next: bytes.as_ptr().cast(), lines, at_once: lines.div_ceil(calls.max(1)) }
    }

    #[inline(always)]
    fn prefetch(&mut self) {
        for _ in 0..self.at_once.min(self.lines) {
            // SAFETY: a hint, valid for any address; this one is inside the slice that `new` was given.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.next) };
            self.next = self.next.wrapping_add(Line::BYTES);
            self.lines -= 1;
        }
    }
}
