//! The int8 search that uses what the search before has learned ([`super::super::known`]).
//!
//! Let x be a row, s q_x exactly, c a centroid, m the middle and c' = t q_c the rounded centroid, so that the kernel
//! compares c^ = m + c' in place of c. Let X = |x - m|, D = |x - c|, D^ = |x - c^| and e = |c - c^|.
//!
//! - By what the score stands for, exactly (|c|^2 - |m|^2)/2 - x.c' = (D^^2 - X^2)/2 + w, where
//!   w = (c - c^).((c + c^)/2) depends on the centroid alone.
//! - The kernel rounds the offset (|c|^2 - |m|^2)/2, whose norms it has summed in float64, the product with t, and the
//!   score. So a score is off by less than b = 2^-21 (|x| C + O) + 2^-36 N + 2^-147 (|s| + 1), where no c' is longer
//!   than C, no offset larger than O, and N is |m|^2 and the largest |c|^2. |x| is at most X + |m|.
//! - So a panel whose least score is u has no D^ below sqrt(X^2 + 2 (u - b - w)) with the largest w of the panel, and no
//!   D below that less the largest e. The panel keeps a bound L of D: true distances move with the centroids alone,
//!   whatever is rounded in the next search.
//! - The score u of the former centroid is the kernel's own, bit for bit. A centroid with D > L has
//!   D^ > L - e, so its score as the kernel takes it is above u if L > sqrt(X^2 + 2 (u + b - w)) + e with the least w.
//!   The panel of the former centroid itself is never skipped: no score is above itself.
//!
//! Sums over columns are taken in float64, whose roundings `SLACK` exceeds.

use super::super::known::bounds::SLACK;
use super::super::known::{choose, KnownBlock, KnownScratch, Moves, NONE};
use super::super::middle::mean;
use super::super::multiply_add::MultiplyAdd;
use super::panels::{Dot, Int8Scratch, Panels};
use super::rounded;
use crate::convert::Rows;

/// What the rounding of the centroids of a search has changed.
pub struct Rounding {
    /// q_c of each centroid, [K, dim].
    q: Vec<i8>,
    middle: Vec<f32>,
    /// An upper bound of |m|.
    middle_length: f64,
    /// Of each panel, upper bounds of e and of w.
    panels: Vec<(f64, f64)>,
    /// An upper bound of all e, and a lower bound of all w.
    most_lost: f64,
    least: f64,
    /// C.
    longest: f64,
    /// What b has for every row: 2^-21 O + 2^-36 N + 2^-147.
    common: f64,
}

impl Rounding {
    /// Of `centroids` [K, dim] in panels of `lanes`. `None` if the search is not for so many columns.
    pub fn new(centroids: &[f32], dim: usize, lanes: usize) -> Option<Rounding> {
        let middle = mean(centroids, dim);
        let squared = |v: &[f32]| v.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
        let (mut q, mut panels) = (Vec::with_capacity(centroids.len()), Vec::new());
        let (mut most_lost, mut least, mut longest, mut offset, mut norm) = (0f64, 0f64, 0f64, 0f64, 0f64);
        for (k, (centroid, rounded)) in centroids.chunks_exact(dim).zip(rounded(centroids, dim)?).enumerate() {
            let of = Changed::new(centroid, &middle, &rounded.q, rounded.scale);
            if k % lanes == 0 {
                panels.push((0.0, f64::NEG_INFINITY));
            }
            let (lost, most) = panels.last_mut().expect("pushed above");
            (*lost, *most) = (f64::max(*lost, of.lost), f64::max(*most, of.shift + of.slack));
            (most_lost, least) = (most_lost.max(of.lost), least.min(of.shift - of.slack));
            longest = longest.max(of.length);
            (offset, norm) = (offset.max(f64::from(rounded.offset).abs()), norm.max(squared(centroid)));
            q.extend_from_slice(&rounded.q);
        }
        let middle_norm = squared(&middle);
        let common = offset * 2f64.powi(-21) + (norm + middle_norm) * 2f64.powi(-36) + 2f64.powi(-147);
        let middle_length = middle_norm.sqrt() * (1.0 + SLACK);
        Some(Rounding { q, middle, middle_length, panels, most_lost, least, longest, common })
    }

    /// What is known of a row that the search has not compared yet.
    #[inline(always)]
    fn row(&self, q: &[i8], scale: f32) -> Row {
        let scale = f64::from(scale);
        let squared = sum(q, &self.middle, |q, m| (f64::from(q) * scale - f64::from(m)).powi(2));
        let length = (squared.sqrt() + self.middle_length) * (1.0 + SLACK);
        let bound = length * self.longest * 2f64.powi(-21) + self.common + scale.abs() * 2f64.powi(-147);
        Row { squared, bound }
    }

    /// A distance such that centroids farther than that are farther by the kernel than the former centroid, whose score
    /// is `score`.
    #[inline(always)]
    fn threshold(&self, row: &Row, score: f32) -> f32 {
        let squared = row.squared * (1.0 + SLACK) + 2.0 * (f64::from(score) + row.bound - self.least);
        up((squared.max(0.0).sqrt() + self.most_lost) * (1.0 + SLACK))
    }
}

/// What is known of a row.
#[derive(Clone, Copy, Default)]
pub struct Row {
    /// X^2 but for the roundings of float64.
    squared: f64,
    /// b.
    bound: f64,
}

/// What the rounding of a centroid has changed.
struct Changed {
    /// At least e.
    lost: f64,
    /// w, by at most `slack`.
    shift: f64,
    slack: f64,
    /// At least |c'|.
    length: f64,
}

impl Changed {
    fn new(centroid: &[f32], middle: &[f32], q: &[i8], scale: f32) -> Changed {
        let (mut lost, mut shift, mut slack, mut length) = (0f64, 0f64, 0f64, 0f64);
        for ((&c, &m), &q) in centroid.iter().zip(middle).zip(q) {
            let (c, m, rounded) = (f64::from(c), f64::from(m), f64::from(scale) * f64::from(q));
            // c - m may be rounded; what is left of it is close enough to the difference of all three.
            let difference = (c - m) - rounded;
            let half = (c + m + rounded) / 2.0;
            lost += difference * difference;
            shift += difference * half;
            // More than the roundings of all sums: each is 2^-53 of its terms.
            slack += ((c - m).abs() + rounded.abs()) * (c.abs() + m.abs() + rounded.abs());
            length += rounded * rounded;
        }
        // The roundings of c - m - c' are below SLACK of the lengths of c - m and c', which differ by e.
        let length = length.sqrt() * (1.0 + SLACK);
        let lost = lost.sqrt() * (1.0 + SLACK);
        Changed { lost: lost + SLACK * (2.0 * length + lost), shift, slack: SLACK * slack, length }
    }
}

/// A float32 number that is no less than `v`, which is not negative and below 2^100.
#[inline(always)]
fn up(v: f64) -> f32 {
    (v * (1.0 + 2f64.powi(-22)) + 2f64.powi(-100)) as f32
}

/// A float32 number that is no more than `v`, which is below 2^100, and at least 0.
#[inline(always)]
fn down(v: f64) -> f32 {
    let below = (v * (1.0 - 2f64.powi(-22))) as f32;
    if v > 2f64.powi(-100) {
        below
    } else {
        0.0
    }
}

/// sum_j f(q_j, m_j) in float64, in some order.
#[inline(always)]
fn sum(q: &[i8], m: &[f32], f: impl Fn(i8, f32) -> f64) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0f64; LANES];
    let (q, m) = (q.chunks_exact(LANES), m.chunks_exact(LANES));
    let tail: f64 = q.remainder().iter().zip(m.remainder()).map(|(&q, &m)| f(q, m)).sum();
    for (q, m) in q.zip(m) {
        for lane in 0..LANES {
            lanes[lane] += f(q[lane], m[lane]);
        }
    }
    lanes.iter().fold(tail, |sum, lane| sum + lane)
}

impl<const LANES: usize> Panels<LANES> {
    pub fn n_panels(&self) -> usize {
        self.scales.len()
    }

    pub fn moves(&self, centroids: &[f32], before: Option<&[f32]>) -> Moves {
        let rounding = Rounding::new(centroids, self.dim, LANES).expect("columns as in `new`");
        Moves::rounded(centroids, before, self.dim, LANES, rounding)
    }

    /// The nearest centroids, by what is known. The compiler inlines this into the functions of an instruction set.
    ///
    /// # Safety
    /// As of `D`.
    #[inline(always)]
    pub unsafe fn assign_known<D: Dot, M: MultiplyAdd, const GROUP: usize, const REGISTERS: usize>(
        &self,
        rows: Rows,
        moves: &Moves,
        known: KnownBlock,
        labels: &mut [u32],
        (scratch, known_scratch): (&mut Int8Scratch, &mut KnownScratch),
    ) {
        let (n, dim, stride) = (labels.len(), rows.dim(), known.labels.len());
        let rounding = moves.rounding.as_ref().expect("made by `moves`");
        let (bytes, row_scales) = (bytemuck::cast_slice::<u8, i8>(rows.bytes()), rows.scales());
        let Int8Scratch { rows: memory, known: of_rows, best, .. } = scratch;
        let KnownScratch { thresholds, chosen, .. } = known_scratch;
        let block = self.load::<D>(bytes, dim, memory);
        of_rows.clear();
        best.clear();
        thresholds.clear();
        for (i, (x, &scale)) in bytes.chunks_exact(dim).zip(row_scales).enumerate() {
            let (row, former) = (rounding.row(x, scale), known.labels[i]);
            of_rows.push(row);
            if former == NONE {
                best.push(f32::INFINITY);
                thresholds.push(f32::INFINITY);
                labels[i] = 0;
                continue;
            }
            let k = former as usize;
            let product = dot(x, &rounding.q[k * dim..][..dim]);
            let panel = &self.scales[k / LANES];
            let score = M::of(-(product as f32 * panel.scales[k % LANES]), scale, panel.offsets[k % LANES]);
            best.push(score);
            thresholds.push(rounding.threshold(&row, score));
            labels[i] = former;
        }
        chosen.resize(n.next_multiple_of(GROUP), 0);
        let mut scores = [[0f32; LANES]; GROUP];
        for (number, panel) in self.words.chunks_exact(self.steps * LANES).enumerate() {
            let lower = &mut known.lower[number * stride..][..n];
            let n_chosen = choose(lower, moves.moved[number], thresholds, chosen);
            #[cfg(test)]
            {
                known_scratch.searched += n_chosen;
            }
            let Some(&filler) = chosen[..n_chosen].last() else { continue };
            // The last group is filled up with a row of it, which changes nothing.
            let groups = n_chosen.next_multiple_of(GROUP);
            chosen[n_chosen..groups].fill(filler);
            let (lost, most) = rounding.panels[number];
            for group in chosen[..groups].chunks_exact(GROUP) {
                let group: [usize; GROUP] = std::array::from_fn(|r| group[r] as usize);
                let (words, starts) = block.of::<GROUP>(group);
                let sums = D::sums::<GROUP, REGISTERS, LANES>(words, starts, panel);
                let scale = group.map(|i| row_scales[i]);
                let least = D::scores::<M, GROUP, LANES>(&sums, &scale, &self.scales[number], &mut scores);
                let of_group = group.map(|i| of_rows[i]);
                let mut bounds = [0f64; GROUP];
                for r in 0..GROUP {
                    let Row { squared, bound } = of_group[r];
                    let squared = squared * (1.0 - SLACK) + 2.0 * (f64::from(least[r]) - bound - most);
                    bounds[r] = squared.max(0.0).sqrt() * (1.0 - SLACK) - lost;
                }
                for r in 0..GROUP {
                    let i = group[r];
                    lower[i] = down(bounds[r]);
                    if least[r] <= best[i] {
                        let lane = scores[r].iter().position(|&score| score == least[r]).unwrap_or(0);
                        let centroid = (number * LANES + lane) as u32;
                        // The former centroid may be a higher one than those with the same score.
                        let label = if least[r] < best[i] { centroid } else { labels[i].min(centroid) };
                        (best[i], labels[i]) = (least[r], label);
                    }
                }
            }
        }
        known.labels[..n].copy_from_slice(labels);
    }
}

/// q_x . q_c.
#[inline(always)]
fn dot(x: &[i8], c: &[i8]) -> i32 {
    x.iter().zip(c).map(|(&x, &c)| i32::from(x) * i32::from(c)).sum()
}
