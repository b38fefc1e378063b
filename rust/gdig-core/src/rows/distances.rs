//! Squared lengths and distances of rows in float32. The order of the additions is fixed, and so are the bits.

/// Squared norms stay below this, so that neither a product of two rows nor a squared distance overflows float32.
pub const MAX_SQUARED_NORM: f32 = f32::MAX / 8.0;

/// Lanes of the sums over columns. The number is fixed, and so is the order of the additions.
pub const LANES: usize = 16;

/// sum_j f(a_j, b_j)^2, in `LANES` float32 sums that are added in a fixed order.
#[inline(always)]
fn sum_of_squares(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let mut tail = 0f32;
    for (a, b) in a_chunks.remainder().iter().zip(b_chunks.remainder()) {
        let d = f(*a, *b);
        tail += d * d;
    }
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            let d = f(a[lane], b[lane]);
            lanes[lane] += d * d;
        }
    }
    lanes.iter().fold(tail, |sum, lane| sum + lane)
}

pub fn squared_norm(a: &[f32]) -> f32 {
    sum_of_squares(a, a, |a, _| a)
}

#[inline(always)]
pub fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    sum_of_squares(a, b, |a, b| a - b)
}
