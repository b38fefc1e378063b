//! int8 rows as they are stored, with a scale each, by exact integer sums.
//!
//! With m the mean of the centroids, c - m is rounded to t q_c, q_c of int8 and t = max|c - m| / 127 for each centroid,
//! and the score of a row s q_x is (|c|^2 - |m|^2)/2 - s t (q_x . q_c): |c|^2/2 - x.c up to a number that all centroids
//! share. The product is exact, and what follows is float32: t times the product, rounded, and one fused multiply-add.
//! So all int8 kernels give the same labels. A score is off by at most
//! |s| t |q_x|_1 (1/2 + 127 . 2^-22) + 2^-23 |(|c|^2 - |m|^2)/2|.

pub mod known;
pub mod panels;
pub mod portable;
#[cfg(test)]
mod tests;

use super::middle::mean;

/// A centroid as the int8 kernels compare it.
pub struct Rounded {
    pub q: Vec<i8>,
    /// t.
    pub scale: f32,
    /// (|c|^2 - |m|^2)/2.
    pub offset: f32,
}

/// The most columns whose sums fit int32. Stored rows reach -128 in other programs' hands; centroids do not.
pub const MAX_DIM: usize = i32::MAX as usize / (128 * 127);

/// The last bit of numbers near it is 1, so an addition rounds to whole numbers, ties to even. The processor's
/// instruction for it is not in x86-64's baseline.
const WHOLE: f32 = 1.5 * (1u32 << 23) as f32;

/// Each of `centroids` [K, dim], in order. `None` beyond `MAX_DIM` columns.
pub fn rounded(centroids: &[f32], dim: usize) -> Option<impl Iterator<Item = Rounded> + '_> {
    if dim > MAX_DIM {
        return None;
    }
    let middle = mean(centroids, dim);
    let squared_norm = |v: &[f32]| v.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    let middle_norm = squared_norm(&middle);
    Some(centroids.chunks_exact(dim).map(move |centroid| {
        let shifted = || centroid.iter().zip(&middle).map(|(c, m)| c - m);
        let scale = shifted().fold(0f32, |most, c| most.max(c.abs())) / 127.0;
        // A cast of NaN, of a centroid that is all m, is zero. Where t is subnormal or zero, c / t is beyond 127.
        let q = shifted().map(|c| (((c / scale).clamp(-127.0, 127.0) + WHOLE) - WHOLE) as i8).collect();
        Rounded { q, scale, offset: ((squared_norm(centroid) - middle_norm) / 2.0) as f32 }
    }))
}
