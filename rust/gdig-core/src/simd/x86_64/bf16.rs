//! bfloat16 without tiles, by `vdpbf16ps`: 12 rows by 32 centroids in 24 of the 32 registers.
//!
//! With m the mean of the centroids, the score is |c'|^2/2 - x'.c', where x' = bf16(x - m) and c' = bf16(c - m) in the
//! product and c' = c - m in the norm. `vdpbf16ps` adds two products to a sum, that of the second column and then that
//! of the first, each by a float32 fused multiply-add, rounded to the nearest whatever MXCSR says. Numbers and results
//! below 2^-126 are taken as zero. Intel's manual says so, and a test compares the bits. So the product of a column
//! goes through dim roundings of 2^-24 at most, half of what AMX is allowed, and the bound of AMX holds: a score is off
//! by at most (2^-7 + 2^-16 + (dim + 3) 2^-23) |x - m||c - m| + 2^-23 |c - m|^2.

use std::arch::x86_64::*;

use super::super::known::bounds::{Row, SLACK};
use super::super::known::{KnownBlock, Moves, Search};
use super::super::middle::mean;
use super::super::{half_norms, shifted, Nearest, NearestKnown, Scratch};
use super::amx_bf16::round_shifted;
use super::half_avx512;
use super::tile::Line;
use crate::convert::Rows;
use crate::simd::best::Bests;
use crate::simd::generic::BLOCK_BYTES;

/// Rows and centroids whose products are taken at once.
pub const GROUP: usize = 12;
pub const LANES: usize = 32;

/// Columns of a line.
const PER_LINE: usize = 32;

pub fn has_bf16() -> bool {
    super::has_avx512() && is_x86_feature_detected!("avx512bf16")
}

pub use super::bf16_speed::is_faster;

/// Rows in bfloat16, one behind the other.
#[derive(Default)]
pub struct RowLines {
    /// Lines of a row.
    per_row: usize,
    /// [rows, per_row]; zeros behind the last column.
    lines: Vec<Line>,
}

impl RowLines {
    /// Let it have room for so many rows of `dim` columns, and whole groups.
    pub fn reset(&mut self, rows: usize, dim: usize) {
        self.per_row = dim.div_ceil(PER_LINE);
        self.lines.resize(rows.next_multiple_of(GROUP) * self.per_row, Line::ZERO);
    }

    /// Let it hold `x`, [n, dim].
    ///
    /// # Safety
    /// The processor must have AVX-512 with bfloat16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn load(&mut self, x: &[f32], dim: usize) {
        let zeros = vec![0f32; dim];
        self.reset(x.len() / dim, dim);
        for (i, x) in x.chunks_exact(dim).enumerate() {
            round_shifted::<1>(x, &zeros, self.row_mut(i));
        }
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [Line] {
        &mut self.lines[row * self.per_row..][..self.per_row]
    }

    fn row(&self, row: usize) -> &[Line] {
        &self.lines[row * self.per_row..][..self.per_row]
    }

    /// The rows of a group, which may be any.
    #[inline(always)]
    fn group(&self, rows: [usize; GROUP]) -> [&[Line]; GROUP] {
        rows.map(|row| self.row(row))
    }
}

/// Centroids in bfloat16, in panels of `LANES`.
pub struct Panels {
    /// Words of two columns in a centroid.
    steps: usize,
    /// [panels, steps, 2]: of each step a word of each of `LANES` centroids. Zeros where the last panel and the last
    /// word are filled up.
    lines: Vec<Line>,
    /// An upper bound of |c - c'|, of all centroids.
    most_lost: f64,
}

impl Panels {
    /// `x` is [n, dim].
    ///
    /// # Safety
    /// The processor must have AVX-512 with bfloat16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn new(x: &[f32], dim: usize) -> Panels {
        let steps = dim.div_ceil(2);
        let mut lines = vec![Line::ZERO; (x.len() / dim).div_ceil(LANES) * steps * 2];
        let (zeros, mut row) = (vec![0f32; dim], vec![Line::ZERO; dim.div_ceil(PER_LINE)]);
        let mut most_lost = 0f64;
        for (k, x) in x.chunks_exact(dim).enumerate() {
            round_shifted::<1>(x, &zeros, &mut row);
            most_lost = most_lost.max(lost(x, &row));
            let panel = &mut lines[k / LANES * steps * 2..][..steps * 2];
            let words = row.iter().flat_map(|line| line.0);
            panel.iter_mut().skip(k % LANES / 16).step_by(2).zip(words).for_each(|(line, word)| line.0[k % 16] = word);
        }
        Panels { steps, lines, most_lost }
    }

    /// Give `take` a row's number, a panel's, and their inner products, for each of the first `n` rows and each panel.
    ///
    /// # Safety
    /// As of `new`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn each(&self, rows: &RowLines, n: usize, mut take: impl FnMut(usize, usize, &[f32; LANES])) {
        // A panel stays in the cache while all groups of the block pass by.
        for (number, panel) in self.lines.chunks_exact(self.steps * 2).enumerate() {
            for first in (0..n).step_by(GROUP) {
                let group = rows.group(std::array::from_fn(|r| first + r));
                for (r, dots) in products(group, panel).iter().enumerate() {
                    take(first + r, number, dots);
                }
            }
        }
    }
}

/// An upper bound of |x - x'|, by the bits of x'.
#[inline(always)]
fn lost(x: &[f32], rounded: &[Line]) -> f64 {
    let mut lanes = [0f64; PER_LINE];
    for (x, line) in x.chunks(PER_LINE).zip(rounded) {
        let rounded: &[u16] = bytemuck::cast_slice(&line.0);
        // A loop of known length for whole lines, so that it becomes one of registers.
        if let Ok(x) = <&[f32; PER_LINE]>::try_from(x) {
            (0..PER_LINE).for_each(|i| lanes[i] += lost_square(x[i], rounded[i]));
        } else {
            lanes.iter_mut().zip(x).zip(rounded).for_each(|((sum, &x), &bits)| *sum += lost_square(x, bits));
        }
    }
    lanes.iter().sum::<f64>().sqrt() * (1.0 + SLACK)
}

/// The difference is exact in float32.
#[inline(always)]
fn lost_square(x: f32, bits: u16) -> f64 {
    let lost = f64::from(x - f32::from_bits(u32::from(bits) << 16));
    lost * lost
}

/// Inner products of a group of rows and a panel of centroids.
///
/// # Safety
/// The processor must have AVX-512 with bfloat16, and rows as many words as the panel has steps.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn products(rows: [&[Line]; GROUP], panel: &[Line]) -> [[f32; LANES]; GROUP] {
    let rows = rows.map(|row| row.as_ptr().cast::<i32>());
    let mut sums = [[_mm512_setzero_ps(); 2]; GROUP];
    for (step, centroids) in panel.chunks_exact(2).enumerate() {
        let centroids = [0, 1].map(|half| load(&centroids[half]));
        for (sums, row) in sums.iter_mut().zip(rows) {
            let row = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*row.add(step)));
            for (sums, centroids) in sums.iter_mut().zip(centroids) {
                *sums = _mm512_dpbf16_ps(*sums, row, centroids);
            }
        }
    }
    std::mem::transmute::<[[__m512; 2]; GROUP], [[f32; LANES]; GROUP]>(sums)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &Line) -> __m512bh {
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_load_si512(line.0.as_ptr().cast())) }
}

pub struct Avx512Bf16 {
    panels: Panels,
    /// |c - m|^2/2, infinity where the last panel is filled up, so that no row goes there.
    half_norms: Vec<f32>,
    /// m, [dim].
    middle: Vec<f32>,
}

/// Memory of a worker.
#[derive(Default)]
pub struct Bf16Scratch {
    rows: RowLines,
    /// A row in float32, or all rows of the block less the middle.
    x: Vec<f32>,
    bests: Bests,
}

impl Avx512Bf16 {
    pub fn new(centroids: &[f32], dim: usize) -> Option<Avx512Bf16> {
        if !has_bf16() {
            return None;
        }
        let middle = mean(centroids, dim);
        let shifted = shifted(centroids, &middle);
        // SAFETY: the processor has AVX-512 with bfloat16.
        let panels = unsafe { Panels::new(&shifted, dim) };
        let mut half_norms: Vec<f32> = half_norms(&shifted, dim).collect();
        half_norms.resize(half_norms.len().next_multiple_of(LANES), f32::INFINITY);
        Some(Avx512Bf16 { panels, half_norms, middle })
    }

    /// # Safety
    /// The processor must have AVX-512 with bfloat16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn search(&self, rows: Rows, labels: &mut [u32], scratch: &mut Bf16Scratch) {
        let (n, dim) = (labels.len(), self.middle.len());
        let Bf16Scratch { rows: lines, x, bests } = scratch;
        lines.reset(n, dim);
        x.resize(dim, 0.0);
        for i in 0..n {
            rows.decode_row(i, x, |from, to| half_avx512(from, to));
            round_shifted::<1>(x, &self.middle, lines.row_mut(i));
        }
        bests.reset::<LANES>(n.next_multiple_of(GROUP));
        self.panels.each(lines, n, |row, panel, dots| {
            let half_norms = &self.half_norms[panel * LANES..][..LANES];
            let mut scores: [f32; LANES] = half_norms.try_into().expect("LANES of them");
            scores.iter_mut().zip(dots).for_each(|(score, dot)| *score -= dot);
            bests.offer(row, panel * LANES, &scores);
        });
        bests.labels::<LANES>(labels);
    }

    /// # Safety
    /// The processor must have AVX-512 with bfloat16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn search_known(
        &self,
        rows: Rows,
        moves: &Moves,
        known: KnownBlock,
        labels: &mut [u32],
        scratch: &mut Scratch,
    ) {
        let (n, dim) = (labels.len(), self.middle.len());
        let Scratch { bf16: Bf16Scratch { rows: lines, x, bests }, known: known_scratch, .. } = scratch;
        x.resize(n * dim, 0.0);
        for (i, x) in x.chunks_exact_mut(dim).enumerate() {
            rows.decode_row(i, x, |from, to| half_avx512(from, to));
            x.iter_mut().zip(&self.middle).for_each(|(x, m)| *x -= m);
        }
        lines.load(x, dim);
        known_scratch.rows.clear();
        known_scratch.rows.extend(x.chunks_exact(dim).enumerate().map(|(i, x)| {
            let lost = lost(x, lines.row(i));
            Row::rounded(x, moves.longest(), lost, self.panels.most_lost)
        }));
        let search = Search { x, half_norms: &self.half_norms, moves, known, bests };
        search.assign::<GROUP, LANES>(labels, known_scratch, |group, number| {
            let panel = &self.panels.lines[number * self.panels.steps * 2..][..self.panels.steps * 2];
            // SAFETY: this closure is in a function for processors with bfloat16, and rows and panels have one length.
            unsafe { products(lines.group(group.map(|i| i as usize)), panel) }
        });
    }
}

impl Nearest for Avx512Bf16 {
    fn block_rows(&self) -> usize {
        (BLOCK_BYTES / (2 * self.middle.len())).clamp(32, 512)
    }

    fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        // SAFETY: `new` makes one only where the processor has the instructions.
        unsafe { self.search(rows, labels, &mut scratch.bf16) }
    }

    fn knowing(&self) -> Option<&dyn NearestKnown> {
        Some(self)
    }
}

impl NearestKnown for Avx512Bf16 {
    fn n_panels(&self) -> usize {
        self.half_norms.len() / LANES
    }

    fn moves(&self, centroids: &[f32], before: Option<&[f32]>) -> Moves {
        Moves::new(centroids, before, &self.middle, LANES)
    }

    fn assign(&self, rows: Rows, moves: &Moves, known: KnownBlock, labels: &mut [u32], scratch: &mut Scratch) {
        // SAFETY: as above.
        unsafe { self.search_known(rows, moves, known, labels, scratch) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::row_hash;

    /// Numbers that bfloat16 holds, of either sign, with magnitudes from 2^from to 2^(from + orders).
    fn numbers(n: usize, random_seed: u64, from: i32, orders: u64) -> Vec<f32> {
        let number = |i: usize| {
            let random = row_hash(random_seed, i as u64);
            let magnitude =
                (128 + (random >> 8) % 128) as f32 / 128.0 * 2f32.powi(from + ((random >> 16) % orders) as i32);
            if random.is_multiple_of(2) {
                magnitude
            } else {
                -magnitude
            }
        };
        (0..n).map(number).collect()
    }

    /// x c + sum as the instruction takes it: rounded once, and zero if the rounded number lies below 2^-126. Near that
    /// all is scaled up, so that float32 rounds as if it had no subnormal numbers.
    fn flushed(x: f32, c: f32, sum: f32) -> f32 {
        let (up, least) = (2f32.powi(100), f32::MIN_POSITIVE);
        let rounded = x.mul_add(c, sum);
        if rounded.abs() >= 2f32.powi(-100) || rounded == 0.0 && x * c != 0.0 && sum.abs() > 2f32.powi(-60) {
            return rounded;
        }
        let (small, large) = if x.abs() < c.abs() { (x, c) } else { (c, x) };
        let scaled = (small * up).mul_add(large, sum * up);
        if scaled.abs() < least * up {
            0.0
        } else {
            scaled / up
        }
    }

    fn check(x: &[f32], c: &[f32], dim: usize) {
        let (n, k) = (x.len() / dim, c.len() / dim);
        let mut rows = RowLines::default();
        let mut seen = vec![0; n * k];
        // SAFETY: the caller has looked whether the processor has the instructions.
        unsafe {
            rows.load(x, dim);
            Panels::new(c, dim).each(&rows, n, |row, panel, dots| {
                for (lane, dot) in dots.iter().enumerate().filter(|_| row < n) {
                    let number = panel * LANES + lane;
                    if number >= k {
                        assert_eq!(*dot, 0.0, "lanes that are filled up");
                        continue;
                    }
                    let (x, c) = (&x[row * dim..][..dim], &c[number * dim..][..dim]);
                    let expected = x
                        .chunks(2)
                        .zip(c.chunks(2))
                        .fold(0f32, |sum, (x, c)| x.iter().zip(c).rev().fold(sum, |sum, (&x, &c)| flushed(x, c, sum)));
                    // Of a zero the sign may be any.
                    assert_eq!(*dot, expected, "{n} rows [{dim}], {k} centroids: row {row}, centroid {number}");
                    seen[row * k + number] += 1;
                }
            });
        }
        assert!(seen.iter().all(|&times| times == 1));
    }

    /// Every shape and tail. Magnitudes from one order to many, sums that cancel, products around 2^-126.
    #[test]
    fn sums_are_chains_of_fused_multiply_adds() {
        if !has_bf16() {
            println!("not tested: this machine lacks bfloat16");
            return;
        }
        for dim in [1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 65, 127, 130] {
            for (n, k) in [(1, 1), (2, 31), (11, 32), (12, 33), (13, 64), (25, 65)] {
                for (from, orders) in [(0, 1), (-4, 8), (-20, 40), (-64, 3), (-63, 1)] {
                    let random_seed = (dim * 100 + n) as u64;
                    let (mut x, c) =
                        (numbers(n * dim, random_seed, from, orders), numbers(k * dim, !random_seed, from, orders));
                    check(&x, &c, dim);
                    // Each second pair of columns takes off what the one before added, but for the last bits.
                    let mut c = c;
                    for v in [&mut x, &mut c] {
                        v.chunks_mut(dim).for_each(|v| {
                            (2..dim).for_each(|j| {
                                if j % 4 >= 2 {
                                    v[j] = v[j - 2]
                                }
                            })
                        });
                    }
                    c.chunks_mut(dim).for_each(|c| {
                        (2..dim).for_each(|j| {
                            if j % 4 >= 2 {
                                c[j] = -c[j]
                            }
                        })
                    });
                    check(&x, &c, dim);
                }
            }
        }
    }
}
