//! x c + sum in float32, in three ways.

/// A way to multiply and add.
pub trait MultiplyAdd {
    fn of(x: f32, c: f32, sum: f32) -> f32;
}

/// Rounded once, by the processor's instruction. Without one it is a call of a function.
pub struct Fused;

impl MultiplyAdd for Fused {
    #[inline(always)]
    fn of(x: f32, c: f32, sum: f32) -> f32 {
        x.mul_add(c, sum)
    }
}

/// The bits of `Fused` from operations that every processor has, on vectors too.
///
/// The product of two float32 numbers is exact in float64. The sum is rounded to odd: what is not exact gets the last
/// bit 1, on the side of the exact sum. Rounding that to float32 is rounding the exact sum, because float64 has more
/// than two bits more (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums").
pub struct Emulated;

impl MultiplyAdd for Emulated {
    #[inline(always)]
    fn of(x: f32, c: f32, sum: f32) -> f32 {
        let (product, sum) = (f64::from(x) * f64::from(c), f64::from(sum));
        let total = product + sum;
        // What the rounding lost, exactly (Knuth's two-sum); NaN if the total is not finite.
        let back = total - product;
        let lost = (product - (total - back)) + (sum - back);
        let inexact = u64::from(lost.abs() > 0.0);
        // The total is too large in magnitude if it and what it lost have different signs.
        let beyond = (lost.to_bits() ^ total.to_bits()) >> 63 & inexact;
        f64::from_bits((total.to_bits() - beyond) | inexact) as f32
    }
}

/// Rounded twice.
pub struct Apart;

impl MultiplyAdd for Apart {
    #[inline(always)]
    fn of(x: f32, c: f32, sum: f32) -> f32 {
        x * c + sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(x: f32, c: f32, sum: f32) {
        let (expected, got) = (x.mul_add(c, sum), Emulated::of(x, c, sum));
        let same = expected.to_bits() == got.to_bits() || (expected.is_nan() && got.is_nan());
        assert!(same, "{x:e} {c:e} {sum:e}: {expected:e}, got {got:e}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 16 } else { 20_000 }, ..ProptestConfig::default() })]

        /// Any bits: subnormal, infinite and NaN too.
        #[test]
        fn emulated_gives_the_bits_of_fused(x in any::<u32>(), c in any::<u32>(), sum in any::<u32>()) {
            check(f32::from_bits(x), f32::from_bits(c), f32::from_bits(sum));
        }

        /// The sum lies near the product, or so far below it that it decides a tie, or so far above it.
        #[test]
        fn emulated_gives_the_bits_of_fused_where_a_tie_is_near(
            x in 0u32..1 << 24, c in 0u32..1 << 24, sum in 0u32..1 << 24, distance in -60i32..60, at in -140i32..60,
            few in 0u32..24, negative in any::<bool>()
        ) {
            // Few bits, so that the product has as many as float32, one more, or twice as many.
            let (x, c) = (x >> few, c >> few);
            let scaled = |v: u32, exponent: i32| (f64::from(v) * 2f64.powi(exponent)) as f32;
            let sum = scaled(sum, at + distance) * if negative { -1.0 } else { 1.0 };
            check(scaled(x, at), c as f32, sum);
        }
    }

    #[test]
    fn rounding_twice_would_err_here() {
        let tie = 1.0 + 2f32.powi(-12);
        // tie^2 is 1 + 2^-11 + 2^-24, a tie of float32, which a number below the last bit of float64 decides.
        for sum in [2f32.powi(-80), -2f32.powi(-80), 2f32.powi(-149), -2f32.powi(-149), 0.0, -0.0] {
            check(tie, tie, sum);
            check(-tie, tie, sum);
        }
        assert_ne!(Emulated::of(tie, tie, 2f32.powi(-80)), Emulated::of(tie, tie, -2f32.powi(-80)));
        check(0.0, -1.0, -0.0);
        check(f32::MAX, 2.0, -f32::MAX);
        check(f32::MAX, f32::MAX, f32::NEG_INFINITY);
    }
}
