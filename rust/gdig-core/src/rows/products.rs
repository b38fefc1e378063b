//! Products of rows, summed in float64. Every machine gives the same bits: multiplications and additions are not fused,
//! and wider registers only hold more lanes.

/// Lanes of a sum over columns. The number is fixed, and so is the order of the additions.
const LANES: usize = 16;

/// sum_j a_j b_j. Products of float32 numbers are exact in float64.
#[inline(always)]
fn sum_of_products<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[A], b: &[B]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let tail = rest.fold(0f64, |sum, (&a, &b)| sum + a.into() * b.into());
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += a[lane].into() * b[lane].into();
        }
    }
    lanes.iter().fold(tail, |sum, lane| sum + lane)
}

#[inline(always)]
fn of_each(rows: &[f32], direction: &[f64], out: &mut [f64]) {
    for (out, row) in out.iter_mut().zip(rows.chunks_exact(direction.len())) {
        *out = sum_of_products(row, direction);
    }
}

/// The product of `direction` with each of `rows`, [out, dim].
pub fn products(rows: &[f32], direction: &[f64], out: &mut [f64]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn wide(rows: &[f32], direction: &[f64], out: &mut [f64]) {
            of_each(rows, direction, out);
        }
        #[target_feature(enable = "avx2")]
        fn half(rows: &[f32], direction: &[f64], out: &mut [f64]) {
            of_each(rows, direction, out);
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            return unsafe { wide(rows, direction, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the instructions.
            return unsafe { half(rows, direction, out) };
        }
    }
    of_each(rows, direction, out);
}

/// The product of two rows.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn wide(a: &[f32], b: &[f32]) -> f64 {
            sum_of_products(a, b)
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            return unsafe { wide(a, b) };
        }
    }
    sum_of_products(a, b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// With any registers: sixteen sums, and the columns behind the last sixteen come first.
        #[test]
        fn the_order_of_the_additions_is_fixed(dim in 1usize..70, rows in 0usize..5, random_seed: u32) {
            let number = |i: usize| (i as f64 * 0.7 + f64::from(random_seed)).sin();
            let x: Vec<f32> = (0..rows * dim).map(|i| number(i) as f32).collect();
            let direction: Vec<f64> = (0..dim).map(|i| number(i + 1000)).collect();
            let narrow: Vec<f32> = direction.iter().map(|&x| x as f32).collect();
            let plain = |row: &[f32], direction: &[f64]| {
                let whole = dim / LANES * LANES;
                let terms = |from: usize, to: usize, step: usize| {
                    (from..to).step_by(step).fold(0f64, |sum, j| sum + f64::from(row[j]) * direction[j])
                };
                (0..LANES).fold(terms(whole, dim, 1), |sum, lane| sum + terms(lane, whole, LANES))
            };
            let mut out = vec![f64::NAN; rows];
            products(&x, &direction, &mut out);
            let widened: Vec<f64> = narrow.iter().map(|&x| f64::from(x)).collect();
            for (row, product) in x.chunks_exact(dim).zip(out) {
                prop_assert_eq!(product.to_bits(), plain(row, &direction).to_bits());
                prop_assert_eq!(dot(row, &narrow).to_bits(), plain(row, &widened).to_bits());
            }
        }
    }
}
