//! Centroids rounded to int8, as [`super::int8`] compares them.

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
