//! What the roundings of a search may have taken from its scores, and added: the bounds are true all the same.
//!
//! Let x and c be a row and a centroid less the middle, in float32 as the kernels have them, X and C bounds of their
//! lengths, e = 2^-23, and d the columns, at most 2^20.
//!
//! - A float32 sum of d products in any order, fused or not, subtracted from the rounded |c|^2/2, differs from the exact
//!   score |c|^2/2 - x.c by less than b = 9/16 (d + 8) (e (X C + C^2/2) + 2^-149).
//! - The subtraction of the middle has moved x and c by e/2 of their lengths each, so the distance |x - c| of what the
//!   kernels have is off from that of the row and the centroid themselves by less than r = e (X + C). The middle differs
//!   from iteration to iteration; distances of the rows and centroids themselves do not depend on it.
//! - So a panel whose least score is s has no centroid nearer than L = sqrt(X^2 + 2 (s - b)) - r.
//! - Let u be the score of the former centroid, summed in float32 in any order, so that it is off by less than a b of
//!   its own, b'. The kernel's own is at most u + b' + b. A centroid at a distance D has a kernel's score above
//!   (D - r)^2/2 - X^2/2 - b, so it is farther by the kernel if D > T = sqrt(X^2 + 2 u + 2 b' + 4 b) + r.
//! - A kernel that compares x' and c', rounded to bfloat16, has |x'.c' - x.c| <= |x - x'| C + |x'||c - c'| more in its b.
//!   What is rounded away is measured for each row, and the most of it for all centroids. Sums below 2^-126 may be
//!   taken as zero.
//!
//! The panel of the former centroid itself is never skipped, as L - m is at most its distance, and that is at most T.
//! Bounds are taken in float64, and rounded to float32 in the direction that keeps them true. Nothing overflows, because
//! the squared norms of rows and centroids are below `MAX_SQUARED_NORM`; a row that has more ends the fit.

/// A float32 number that is no less.
pub fn up(v: f64) -> f32 {
    (v as f32).next_up()
}

/// A float32 number that is no more, and at least 0.
fn down(v: f64) -> f32 {
    (v as f32).next_down().max(0.0)
}

/// Of a float64 sum of squares or its root: more than its roundings can have taken or added.
pub const SLACK: f64 = 1.0 / (1u64 << 32) as f64;

/// What is known of a row while its block is searched.
#[derive(Clone, Copy, Default)]
pub struct Row {
    /// No less than X^2.
    squared: f64,
    /// b, b' and r of the row and any centroid.
    bound: f64,
    float32: f64,
    shift: f64,
}

impl Row {
    /// Of a row less the middle, for a kernel of float32. No centroid is longer than `longest`.
    pub fn new(x: &[f32], longest: f64) -> Row {
        let squared = squared_norm(x) * (1.0 + SLACK);
        let length = squared.sqrt() * (1.0 + SLACK);
        let float32 = of_sums(x.len(), length, longest, -149);
        Row { squared, bound: float32, float32, shift: f64::from(f32::EPSILON) * (length + longest) }
    }

    /// For a kernel that rounds the row and the centroids: the row by `lost`, |x - x'|, a centroid by at most
    /// `most_lost`.
    pub fn rounded(x: &[f32], longest: f64, lost: f64, most_lost: f64) -> Row {
        let row = Row::new(x, longest);
        let length = (row.squared.sqrt() * (1.0 + SLACK) + lost) * (1.0 + SLACK);
        let rounded = (lost * longest + length * most_lost) * (1.0 + SLACK);
        Row { bound: rounded + of_sums(x.len(), length, longest + most_lost, -125), ..row }
    }

    /// L of a panel whose least score is `score`.
    pub fn lower(&self, score: f32) -> f32 {
        down((self.squared * (1.0 - 2.0 * SLACK) + 2.0 * (f64::from(score) - self.bound)).max(0.0).sqrt() - self.shift)
    }

    /// T, if the former centroid has the score `score`.
    pub fn threshold(&self, score: f32) -> f32 {
        up((self.squared + 2.0 * f64::from(score) + 2.0 * self.float32 + 4.0 * self.bound).max(0.0).sqrt()
            * (1.0 + SLACK)
            + self.shift)
    }
}

/// b of a float32 sum of `dim` products, of vectors of these lengths. Results below 2^subnormal are off by as much.
fn of_sums(dim: usize, length: f64, longest: f64, subnormal: i32) -> f64 {
    let roundings = if dim <= 1 << 20 { 0.5625 * (dim + 8) as f64 } else { f64::INFINITY };
    roundings * (f64::from(f32::EPSILON) * (length * longest + longest * longest / 2.0) + 2f64.powi(subnormal))
}

/// In float64, in some order.
#[inline(always)]
pub fn squared_norm(v: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut lanes = [0f64; LANES];
    let v = v.chunks_exact(LANES);
    let tail: f64 = v.remainder().iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    for v in v {
        for lane in 0..LANES {
            lanes[lane] += f64::from(v[lane]) * f64::from(v[lane]);
        }
    }
    lanes.iter().fold(tail, |sum, lane| sum + lane)
}
