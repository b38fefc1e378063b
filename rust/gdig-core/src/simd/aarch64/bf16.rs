//! bfloat16 by products of two rows and two centroids of four columns (FEAT_BF16): 6 rows by 16 centroids in 24 of the
//! 32 registers.
//!
//! With m the mean of the centroids, the score is |c'|^2/2 - x'.c', where x' = bf16(x - m) and c' = bf16(c - m) in the
//! product and c' = c - m in the norm. `bfmmla` adds two pairs of products to a sum, one pair after the other. The
//! products are exact; the sum of a pair is rounded, and so is its addition, each by less than 2^-23 (to odd). The
//! first addition and those of zeros round nothing. So the product of a column goes through ceil(dim / 2) roundings,
//! fewer than AMX needs, and the bound of AMX holds: a score is off by at most
//! (2^-7 + 2^-16 + (dim + 3) 2^-23) |x - m||c - m| + 2^-23 |c - m|^2. Inputs, products and sums below 2^-126 are taken
//! as zero, as with AMX. Where FPCR.EBF is set, which no system does by itself, pairs are rounded once, to the nearest:
//! within the bound too, but other bits.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::super::generic::BLOCK_BYTES;
use super::super::middle::mean;
use super::super::{half_norms, shifted, Nearest, Scratch};
use crate::convert::Rows;

/// Rows and centroids whose products are taken at once.
pub const GROUP: usize = 6;
pub const LANES: usize = 16;

/// Four columns in bfloat16.
pub type Word = [u16; 4];

pub fn has_bf16() -> bool {
    is_aarch64_feature_detected!("bf16")
}

/// Rows or centroids in bfloat16, `SIDE` of them side by side.
#[derive(Default)]
pub struct Panels<const SIDE: usize> {
    steps: usize,
    /// [panels, steps, SIDE]; zeros where the last panel and the last word are filled up.
    words: Vec<Word>,
}

impl<const SIDE: usize> Panels<SIDE> {
    /// Let it hold `x`, [n, dim], less `middle`, [dim].
    ///
    /// # Safety
    /// The processor must have bfloat16.
    #[target_feature(enable = "bf16")]
    pub unsafe fn load(&mut self, x: &[f32], middle: &[f32]) {
        let dim = middle.len();
        self.steps = dim.div_ceil(4);
        self.words.clear();
        self.words.resize((x.len() / dim).next_multiple_of(SIDE) * self.steps, [0; 4]);
        for (i, x) in x.chunks_exact(dim).enumerate() {
            let panel = &mut self.words[i / SIDE * self.steps * SIDE..][..self.steps * SIDE];
            for ((x, m), lanes) in x.chunks(4).zip(middle.chunks(4)).zip(panel.chunks_exact_mut(SIDE)) {
                let mut four = [0f32; 4];
                four.iter_mut().zip(x).zip(m).for_each(|((to, x), m)| *to = x - m);
                vst1_u16(lanes[i % SIDE].as_mut_ptr(), rounded(vld1q_f32(four.as_ptr())));
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &[Word]> {
        self.words.chunks_exact((self.steps * SIDE).max(1))
    }
}

impl Panels<GROUP> {
    /// Give `take` a row's number, a panel's, and their inner products, for each row of a group and each panel.
    ///
    /// # Safety
    /// The processor must have bfloat16.
    #[inline]
    #[target_feature(enable = "bf16")]
    pub unsafe fn each(&self, panels: &Panels<LANES>, mut take: impl FnMut(usize, usize, &[f32; LANES])) {
        // A panel stays in the second-level cache while all groups of the block pass by.
        for (number, panel) in panels.iter().enumerate() {
            for (g, group) in self.iter().enumerate() {
                for (r, dots) in products(group, panel).iter().enumerate() {
                    take(g * GROUP + r, number, dots);
                }
            }
        }
    }
}

/// Inner products of a group of rows, [steps, GROUP], and a panel of centroids, [steps, LANES].
///
/// # Safety
/// The processor must have bfloat16.
#[inline]
#[target_feature(enable = "bf16")]
pub unsafe fn products(group: &[Word], panel: &[Word]) -> [[f32; LANES]; GROUP] {
    let mut sums = [[vdupq_n_f32(0.0); GROUP / 2]; LANES / 2];
    for (x, c) in group.chunks_exact(GROUP).zip(panel.chunks_exact(LANES)) {
        let rows = [0, 2, 4].map(|at| vld1q_u16(x.as_ptr().add(at).cast()));
        for (i, sums) in sums.iter_mut().enumerate() {
            let centroids = vld1q_u16(c.as_ptr().add(2 * i).cast());
            for (sums, rows) in sums.iter_mut().zip(rows) {
                *sums = bfmmla(*sums, rows, centroids);
            }
        }
    }
    let mut out = [[0f32; LANES]; GROUP];
    for (i, sums) in sums.iter().enumerate() {
        for (r, sums) in sums.iter().enumerate() {
            // Two centroids of a row, then of the next one.
            vst1_f32(out[2 * r].as_mut_ptr().add(2 * i), vget_low_f32(*sums));
            vst1_f32(out[2 * r + 1].as_mut_ptr().add(2 * i), vget_high_f32(*sums));
        }
    }
    out
}

/// In assembly, as `rounded` is, as long as Rust's intrinsics for bfloat16 are unstable.
///
/// # Safety
/// The processor must have bfloat16.
#[inline]
#[target_feature(enable = "bf16")]
unsafe fn bfmmla(mut sums: float32x4_t, rows: uint16x8_t, centroids: uint16x8_t) -> float32x4_t {
    asm!(
        "bfmmla {sums:v}.4s, {rows:v}.8h, {centroids:v}.8h",
        sums = inout(vreg) sums,
        rows = in(vreg) rows,
        centroids = in(vreg) centroids,
        options(pure, nomem, nostack, preserves_flags)
    );
    sums
}

/// To the nearest, ties to even.
///
/// # Safety
/// The processor must have bfloat16.
#[inline]
#[target_feature(enable = "bf16")]
unsafe fn rounded(x: float32x4_t) -> uint16x4_t {
    let rounded;
    asm!(
        "bfcvtn {rounded:v}.4h, {x:v}.4s",
        rounded = out(vreg) rounded,
        x = in(vreg) x,
        options(pure, nomem, nostack, preserves_flags)
    );
    rounded
}

pub struct NeonBf16 {
    centroids: Panels<LANES>,
    /// |c - m|^2/2, infinity where the last panel is filled up, so that no row goes there.
    half_norms: Vec<f32>,
    /// m, [dim].
    middle: Vec<f32>,
}

impl NeonBf16 {
    pub fn new(centroids: &[f32], dim: usize) -> Option<NeonBf16> {
        if !has_bf16() {
            return None;
        }
        let middle = mean(centroids, dim);
        let mut panels = Panels::default();
        // SAFETY: the processor has bfloat16.
        unsafe { panels.load(centroids, &middle) };
        let mut half_norms: Vec<f32> = half_norms(&shifted(centroids, &middle), dim).collect();
        half_norms.resize(half_norms.len().next_multiple_of(LANES), f32::INFINITY);
        Some(NeonBf16 { centroids: panels, half_norms, middle })
    }

    /// # Safety
    /// The processor must have bfloat16.
    #[target_feature(enable = "bf16")]
    unsafe fn search(&self, rows: Rows, labels: &mut [u32], scratch: &mut Scratch) {
        let Scratch { float32, bf16, .. } = scratch;
        float32.x.resize(rows.len() * rows.dim(), 0.0);
        rows.decode(&mut float32.x);
        bf16.load(&float32.x, &self.middle);
        float32.bests.reset::<LANES>(labels.len().next_multiple_of(GROUP));
        bf16.each(&self.centroids, |row, panel, dots| {
            let half_norms = &self.half_norms[panel * LANES..][..LANES];
            let mut scores: [f32; LANES] = half_norms.try_into().expect("LANES of them");
            scores.iter_mut().zip(dots).for_each(|(score, dot)| *score -= dot);
            float32.bests.offer(row, panel * LANES, &scores);
        });
        float32.bests.labels::<LANES>(labels);
    }
}

impl Nearest for NeonBf16 {
    fn block_rows(&self) -> usize {
        (BLOCK_BYTES / (8 * self.centroids.steps)).clamp(32, 512)
    }

    fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        // SAFETY: `new` makes one only where the processor has bfloat16.
        unsafe { self.search(rows, labels, scratch) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::row_hash;

    /// In 0.5..1, or of either sign, in bfloat16.
    fn numbers(n: usize, random_seed: u64, positive: bool) -> Vec<f32> {
        let number = |i: usize| {
            let random = row_hash(random_seed, i as u64);
            let sign = if positive || random.is_multiple_of(2) { 1.0 } else { -1.0 };
            sign * (128 + (random >> 8) % 128) as f32 / 256.0
        };
        (0..n).map(number).collect()
    }

    /// Sums of numbers that need no rounding to bfloat16. Where all have one sign every addition rounds by what the
    /// bound lets it; whole numbers below 2^24 are exact.
    #[test]
    fn sums_are_off_by_half_as_many_roundings_as_columns() {
        if !has_bf16() {
            println!("not tested: this machine lacks bfloat16");
            return;
        }
        for dim in [1, 2, 3, 4, 5, 8, 63, 64, 65, 1001, 4096] {
            for positive in [true, false] {
                let (x, c) = (numbers(GROUP * dim, 1, positive), numbers(LANES * dim, 2, positive));
                let (mut group, mut panel) = (Panels::<GROUP>::default(), Panels::<LANES>::default());
                // SAFETY: the processor has bfloat16.
                let sums = unsafe {
                    group.load(&x, &vec![0.0; dim]);
                    panel.load(&c, &vec![0.0; dim]);
                    products(&group.words, &panel.words)
                };
                for (x, sums) in x.chunks(dim).zip(&sums) {
                    for (c, sum) in c.chunks(dim).zip(sums) {
                        let terms = || x.iter().zip(c).map(|(x, c)| f64::from(*x) * f64::from(*c));
                        let (exact, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                        let bound = dim.div_ceil(2) as f64 * 2f64.powi(-23) * size;
                        let off = (f64::from(*sum) - exact).abs();
                        assert!(off <= bound, "{dim} columns: {off:e} of {bound:e}");
                    }
                }
            }
        }
    }
}
