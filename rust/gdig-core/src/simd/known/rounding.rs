//! What rounding the centroids to int8 changes: the terms of the bounds of [`super::super::int8::known`], which has
//! the symbols.

use super::super::middle::mean;
use super::super::rounded::rounded;
use super::bounds::SLACK;

/// What the rounding of the centroids of a search has changed.
pub struct Rounding {
    /// q_c of each centroid, [K, dim].
    pub(in super::super) q: Vec<i8>,
    middle: Vec<f32>,
    /// An upper bound of |m|.
    middle_length: f64,
    /// Of each panel, upper bounds of e and of w.
    pub(in super::super) panels: Vec<(f64, f64)>,
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
    pub fn row(&self, q: &[i8], scale: f32) -> Row {
        let scale = f64::from(scale);
        let squared = sum(q, &self.middle, |q, m| (f64::from(q) * scale - f64::from(m)).powi(2));
        let length = (squared.sqrt() + self.middle_length) * (1.0 + SLACK);
        let bound = length * self.longest * 2f64.powi(-21) + self.common + scale.abs() * 2f64.powi(-147);
        Row { squared, bound }
    }

    /// A distance such that centroids farther than that are farther by the kernel than the former centroid, whose score
    /// is `score`.
    #[inline(always)]
    pub fn threshold(&self, row: &Row, score: f32) -> f32 {
        let squared = row.squared * (1.0 + SLACK) + 2.0 * (f64::from(score) + row.bound - self.least);
        up((squared.max(0.0).sqrt() + self.most_lost) * (1.0 + SLACK))
    }
}

/// What is known of a row.
#[derive(Clone, Copy, Default)]
pub struct Row {
    /// X^2 but for the roundings of float64.
    pub(in super::super) squared: f64,
    /// b.
    pub(in super::super) bound: f64,
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
pub fn down(v: f64) -> f32 {
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
