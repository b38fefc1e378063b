//! The int8 kernels against their definition in plain integers, label by label.

use bytemuck::cast_slice;
use proptest::prelude::*;

use super::super::multiply_add::Fused;
use super::super::{Assigner, Kernel, Scratch};
use super::panels::{four, Dot, Panels};
use super::MAX_DIM;
use crate::convert::Rows;
use crate::hash::row_hash;
use crate::testing::data;
use crate::Dtype;

/// int8 rows [n, dim] with their scales.
struct Stored {
    q: Vec<i8>,
    scales: Vec<f32>,
    dim: usize,
}

impl Stored {
    /// One column in four is -128, and one in four 127. Some scales are 0, others differ by up to 40 binary orders.
    fn hard(n: usize, dim: usize, random_seed: u64) -> Stored {
        let q = |i: usize| match row_hash(random_seed, i as u64) {
            random if random % 4 == 0 => -128,
            random if random % 4 == 1 => 127,
            random => (random >> 8) as i8,
        };
        let scale = |i: usize| match row_hash(!random_seed, i as u64) {
            random if random % 8 == 0 => 0.0,
            random => 2f32.powi((random >> 8) as i32 % 41 - 20) * 1.1,
        };
        Stored { q: (0..n * dim).map(q).collect(), scales: (0..n).map(scale).collect(), dim }
    }

    fn rows(&self) -> Rows<'_> {
        Rows::new(Dtype::I8, self.dim, cast_slice(&self.q), &self.scales).unwrap()
    }
}

/// As the documentation of `int8` says it.
fn oracle(stored: &Stored, centroids: &[f32]) -> Vec<u32> {
    let dim = stored.dim;
    let k = centroids.len() / dim;
    let squared = |v: &[f32]| v.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    let mean = |j: usize| (centroids.chunks(dim).map(|c| f64::from(c[j])).sum::<f64>() / k as f64) as f32;
    let m: Vec<f32> = (0..dim).map(mean).collect();
    let rounded = |c: &[f32]| {
        let shifted: Vec<f32> = c.iter().zip(&m).map(|(c, m)| c - m).collect();
        let t = shifted.iter().fold(0f32, |most, c| most.max(c.abs())) / 127.0;
        let q: Vec<i64> = shifted.iter().map(|c| if t == 0.0 { 0 } else { (c / t).round_ties_even() as i64 }).collect();
        (q.into_iter().map(|q| q.clamp(-127, 127)).collect::<Vec<_>>(), t, ((squared(c) - squared(&m)) / 2.0) as f32)
    };
    let rounded: Vec<_> = centroids.chunks(dim).map(rounded).collect();
    let nearest = |(x, s): (&[i8], &f32)| {
        let score = |(q, t, offset): &(Vec<i64>, f32, f32)| {
            let sum: i64 = x.iter().zip(q).map(|(&x, &q)| i64::from(x) * q).sum();
            (-(sum as f32 * t)).mul_add(*s, *offset)
        };
        let scores: Vec<f32> = rounded.iter().map(score).collect();
        (1..k).fold(0, |best, k| if scores[k] < scores[best] { k } else { best }) as u32
    };
    stored.q.chunks(dim).zip(&stored.scales).map(nearest).collect()
}

fn check(stored: &Stored, centroids: &[f32], scratch: &mut Scratch) {
    let truth = oracle(stored, centroids);
    let what = format!("{} rows [{}], {} centroids", truth.len(), stored.dim, centroids.len() / stored.dim);
    for (kernel, name) in Kernel::available().filter(|(kernel, _)| kernel.rounding() == "int8") {
        let assigner = Assigner::new(kernel, centroids, stored.dim, Dtype::I8).unwrap();
        let mut labels = vec![9; truth.len()];
        assigner.assign(stored.rows(), &[], &mut labels, scratch);
        assert_eq!(labels, truth, "{name}, {what}");
    }
    let mut labels = vec![9; truth.len()];
    let panels = Panels::<8>::new::<Bytes>(centroids, stored.dim).unwrap();
    // SAFETY: `Bytes` asks for nothing.
    unsafe { panels.assign::<Bytes, Fused, 6, 2>(stored.rows(), &mut labels, &mut Default::default()) };
    assert_eq!(labels, truth, "unsigned bytes by signed ones, {what}");
}

/// The dot step of VNNI in plain integers, for machines without it: unsigned bytes by signed ones.
struct Bytes;

impl Dot for Bytes {
    type Register = [i32; 4];
    const LANES: usize = 4;
    const COLUMNS: usize = 4;
    const SHIFT: i32 = 128;
    const IN_PLACE: bool = true;

    fn row_word(columns: &[i8]) -> i32 {
        four(columns, 0)
    }

    fn centroid_word(columns: &[i8]) -> i32 {
        four(columns, 0x80)
    }

    unsafe fn load(from: *const i32) -> [i32; 4] {
        from.cast::<[i32; 4]>().read()
    }

    unsafe fn store(register: [i32; 4], to: *mut i32) {
        to.cast::<[i32; 4]>().write(register);
    }

    unsafe fn splat(word: i32) -> [i32; 4] {
        [word; 4]
    }

    unsafe fn dot(mut sums: [i32; 4], row: [i32; 4], centroids: [i32; 4]) -> [i32; 4] {
        for lane in 0..4 {
            let bytes = row[lane].to_le_bytes().into_iter().zip(centroids[lane].to_le_bytes());
            let products = bytes.map(|(x, c)| i32::from(x as i8) * i32::from(c));
            sums[lane] = sums[lane].wrapping_add(products.sum());
        }
        sums
    }
}

/// Which kernels the tests of this module reach here; the output shows it with --nocapture.
#[test]
fn every_machine_has_an_int8_kernel() {
    for (kernel, name) in Kernel::ALL.into_iter().filter(|(kernel, _)| kernel.rounding() == "int8") {
        let outcome = if kernel.is_available() { "tested" } else { "not tested: this machine lacks it" };
        println!("{name}: {outcome}");
    }
    assert!(Kernel::PortableInt8.is_available());
    assert_eq!(Kernel::detect(Dtype::I8, Dtype::I8, 512).rounding(), "int8");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 64 }, ..ProptestConfig::default() })]

    #[test]
    fn int8_kernels_give_the_labels_of_the_definition(
        n in 0usize..70, dim in 1usize..150, k in 1usize..100, far in prop::sample::select(&[0f32, 1.5, 3e4][..]),
        random_seed in any::<u64>()
    ) {
        let centroids: Vec<f32> = data(k, dim, 7, random_seed).into_iter().map(|c| c + far).collect();
        check(&Stored::hard(n, dim, random_seed), &centroids, &mut Scratch::default());
    }

    /// Centroids of few whole numbers, so that scores tie: then the lower number it is.
    #[test]
    fn ties_go_to_the_lower_centroid(n in 1usize..40, dim in 1usize..10, k in 1usize..100, random_seed in any::<u64>()) {
        let centroids: Vec<f32> = (0..k * dim).map(|i| (row_hash(random_seed, i as u64) % 3) as f32 - 1.0).collect();
        check(&Stored::hard(n, dim, random_seed), &centroids, &mut Scratch::default());
    }
}

/// Around every size at which a word, a register, a panel or a group ends; one scratch for all.
#[test]
fn int8_kernels_at_the_edges_of_their_panels() {
    let mut scratch = Scratch::default();
    for dim in [1, 2, 3, 4, 5, 7, 8, 63, 64, 65] {
        for k in [1, 7, 8, 9, 15, 16, 17, 31, 32, 33] {
            for n in [13, 12, 11, 7, 6, 5, 1, 0] {
                let random_seed = (dim * 10_000 + k * 100 + n) as u64;
                check(&Stored::hard(n, dim, random_seed), &data(k, dim, 9, random_seed), &mut scratch);
            }
        }
    }
}

/// As many columns as int32 has room for, all -128 beside the largest steps; and one column more is refused.
#[test]
fn the_largest_sums_fit() {
    let dim = MAX_DIM;
    let stored = Stored { q: vec![-128; 2 * dim], scales: vec![1.0, 0.5], dim };
    for signs in [[1.0, -1.0], [-1.0, 1.0]] {
        let centroids: Vec<f32> = signs.into_iter().flat_map(|sign| vec![sign; dim]).collect();
        check(&stored, &centroids, &mut Scratch::default());
    }
    for (kernel, name) in Kernel::available().filter(|(kernel, _)| kernel.rounding() == "int8") {
        assert!(Assigner::new(kernel, &vec![1.0; dim + 1], dim + 1, Dtype::I8).is_err(), "{name}");
    }
}

/// `MAX_DIM` counts on it. A step of 190 / 127 subnormal numbers is rounded to a single one, and of 60 / 127 to zero.
#[test]
fn no_centroid_reaches_minus_128() {
    for bits in [60, 190] {
        let c = f32::from_bits(bits);
        let q: Vec<i8> = super::rounded(&[c, -c], 1).unwrap().flat_map(|rounded| rounded.q).collect();
        assert_eq!(q, [127, -127], "{bits}");
    }
}

/// Of all kernels, not only of this machine's.
#[test]
fn the_kernels_that_suit_rows_by_default() {
    let suit = |stored, rows, dim| {
        let mut roundings: Vec<_> =
            Kernel::ALL.iter().filter(|k| k.0.suits(stored, rows, dim)).map(|k| k.0.rounding()).collect();
        roundings.dedup();
        roundings
    };
    for wide in [Dtype::F32, Dtype::F64] {
        assert_eq!(suit(wide, Dtype::F32, 512), ["float32"]);
    }
    // int8 rows are read as float32 where they are scaled to unit length.
    for (stored, rows) in [(Dtype::F16, Dtype::F16), (Dtype::BF16, Dtype::BF16), (Dtype::I8, Dtype::F32)] {
        assert_eq!(suit(stored, rows, 512), ["float32", "bfloat16-fused", "bfloat16", "bfloat16-odd"]);
    }
    assert_eq!(suit(Dtype::I8, Dtype::I8, MAX_DIM), ["float32", "int8"]);
    assert_eq!(suit(Dtype::I8, Dtype::I8, MAX_DIM + 1), ["float32"]);
    assert_eq!(Kernel::detect(Dtype::I8, Dtype::I8, MAX_DIM).rounding(), "int8");
    assert_eq!(Kernel::detect(Dtype::I8, Dtype::I8, MAX_DIM + 1).rounding(), "float32");
}
