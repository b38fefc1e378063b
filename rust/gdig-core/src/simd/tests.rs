//! Every kernel of the machine against exact arithmetic, on rows of every type.

use bytemuck::cast_slice;
use proptest::prelude::*;

use super::middle::middle;
use super::{Assigner, Kernel, Scratch};
use crate::convert::Rows;
use crate::hash::row_hash;
use crate::testing::{data, Stored, DTYPES};
use crate::Dtype;

fn labels(kernel: Kernel, centroids: &[f32], rows: Rows, scratch: &mut Scratch) -> Vec<u32> {
    let mut labels = vec![9; rows.len()];
    let assigner = Assigner::new(kernel, centroids, rows.dim(), rows.dtype()).unwrap();
    assigner.assign(rows, rows.bytes(), &mut labels, scratch);
    labels
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&v| f64::from(v)).collect()
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// |c|^2/2 - x.c
fn exact_score(x: &[f32], c: &[f32]) -> f64 {
    x.iter().zip(c).map(|(x, c)| f64::from(*c) * (f64::from(*c) / 2.0 - f64::from(*x))).sum()
}

/// How far a kernel's score of a row and each centroid may be from the exact one, up to what all centroids share. A
/// rounding is by half an `eps` of the result, or by 2^-150 where the result is subnormal.
///
/// float32: dim + 2 roundings of sums that stay below |x||c| + |c|^2/2; where there is a middle, of x and c less the
/// middle, whose roundings are two more.
///
/// bfloat16: as its modules say, and x - m and c - m were rounded to float32: two eps more. Tiles and `bfmmla` take a
/// number below 2^-126 for zero, and so does the conversion. Of x' that costs 2^-126 |c - m|_1 at most, of c' as much of x - m, and
/// of the sums 2^-126 for each of 2 dim steps; |v|_1 <= dim |v|.
///
/// int8: as its module says. Decoding, which the exact score starts from, has rounded s q_x once and the kernel has
/// not: eps |x||c - m| and 2^-150 a column; and c - m was rounded to float32. Where t is subnormal it is off by 2^-150
/// at most, so 127 t, as far as q_c reaches, misses the largest |c - m| by up to 127 . 2^-150: |x|_1 times that. A
/// subnormal product is off by 2^-150, times s, and the score by 2^-150 again.
fn score_bounds(kernel: Kernel, x: &[f32], centroids: &[f32], scale: Option<f32>) -> Vec<f64> {
    let dim = x.len();
    let (k, d, eps) = ((centroids.len() / dim) as f64, dim as f64, f64::from(f32::EPSILON));
    let m: Vec<f64> =
        (0..dim).map(|j| f64::from((centroids.chunks(dim).map(|c| f64::from(c[j])).sum::<f64>() / k) as f32)).collect();
    let minus = |v: &[f32]| v.iter().zip(&m).map(|(v, m)| f64::from(*v) - m).collect::<Vec<f64>>();
    let at = middle(centroids, dim);
    let x_wide = wide(x);
    let x_minus = norm(&minus(x));
    let bound = |c: &[f32]| {
        let (c_wide, c_minus) = (wide(c), minus(c));
        let (near, far) = (x_minus * norm(&c_minus), norm(&x_wide) * norm(&c_wide));
        match kernel.rounding() {
            "bfloat16" | "bfloat16-odd" | "bfloat16-fused" => {
                let rounding = 2f64.powi(-7) + 2f64.powi(-16) + (d + 5.0) * eps;
                let flushed = d * 2f64.powi(-125) * (1.0 + x_minus + norm(&c_minus));
                rounding * near + eps * norm(&c_minus).powi(2) + flushed
            }
            "int8" => {
                let step = c_minus.iter().fold(0f64, |most, c| most.max(c.abs())) / 127.0;
                let sum = x_wide.iter().map(|x| x.abs()).sum::<f64>();
                let offset = (norm(&c_wide).powi(2) + norm(&m).powi(2)) / 2.0;
                let decoded = eps * (far + norm(&x_wide) * norm(&m)) + d * 2f64.powi(-150) * norm(&c_minus);
                let s = f64::from(scale.expect("int8 rows have scales"));
                let subnormal = 2f64.powi(-150) * (127.0 * sum + s + 1.0);
                sum * step * (0.5 + 127.0 * 2f64.powi(-21)) + eps * offset + decoded + subnormal
            }
            _ => {
                let from = |v: &[f32]| {
                    norm(&v.iter().zip(&at).map(|(v, m)| f64::from(*v) - f64::from(*m)).collect::<Vec<_>>())
                };
                let roundings = d + if at.iter().any(|m| *m != 0.0) { 4.0 } else { 2.0 };
                roundings * (eps * (from(x) * from(c) + from(c).powi(2) / 2.0) + 2f64.powi(-150))
            }
        }
    };
    centroids.chunks(dim).map(bound).collect()
}

/// Each kernel against exact arithmetic; those that compute in float32 against the scalar one, label by label; and each
/// row against itself without its neighbours. `scratch` may come from anything else.
fn check_every_kernel(x: &[f32], centroids: &[f32], dim: usize, dtype: Dtype, scratch: &mut Scratch) {
    let stored = Stored::new(x, dim, dtype);
    let rows = stored.rows();
    let n = rows.len();
    let mut decoded = vec![0f32; n * dim];
    rows.decode(&mut decoded);
    let scores: Vec<f64> = decoded.chunks(dim).flat_map(|x| centroids.chunks(dim).map(|c| exact_score(x, c))).collect();
    let k = centroids.len() / dim;
    let truth = labels(Kernel::Scalar, centroids, rows, &mut Scratch::default());
    for (kernel, name) in Kernel::available().filter(|(kernel, _)| kernel.takes(dtype)) {
        let what = format!("{name}, {n} rows [{dim}] of {}, {k} centroids", dtype.name());
        let assigned = labels(kernel, centroids, rows, scratch);
        if kernel.rounding() == Kernel::Scalar.rounding() {
            assert_eq!(assigned, truth, "{what}");
        }
        for (i, &label) in assigned.iter().enumerate() {
            let scores = &scores[i * k..][..k];
            let nearest = (0..k).min_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
            let (chosen, excess) = (label as usize, scores[label as usize] - scores[nearest]);
            if excess > 0.0 {
                let bounds = score_bounds(kernel, &decoded[i * dim..][..dim], centroids, rows.scales().get(i).copied());
                let allowed = bounds[chosen] + bounds[nearest];
                assert!(
                    excess <= allowed,
                    "{what}: row {i} went to {chosen}, {excess:e} beyond {nearest}, {allowed:e}"
                );
            }
        }
        for i in (0..n).step_by(13) {
            assert_eq!(
                labels(kernel, centroids, rows.slice(i, i + 1), scratch),
                [assigned[i]],
                "{what}: row {i} alone"
            );
        }
    }
}

/// Rows whose magnitudes differ by up to 200 binary orders: subnormal ones, and those whose squares are near the end of
/// float32. Some are zero, some are there twice. float16 and int8 get what fits.
fn hard(n: usize, dim: usize, random_seed: u64, dtype: Dtype) -> Vec<f32> {
    let mut x = data(n, dim, 3, random_seed);
    for i in 0..n {
        let random = row_hash(random_seed, i as u64);
        // 140 columns of up to 1.1 times 2^57 have a squared norm below 2^122, an eighth of the largest float32.
        let exponent = ((random >> 8) % 207) as i32 - 149;
        let exponent = if dtype == Dtype::F16 { exponent.min(15) } else { exponent };
        match random % 8 {
            0 => x[i * dim..][..dim].fill(0.0),
            1 if i > 0 => x.copy_within((i - 1) * dim..i * dim, i * dim),
            _ => x[i * dim..][..dim].iter_mut().for_each(|x| *x = (f64::from(*x) * 2f64.powi(exponent)) as f32),
        }
    }
    x
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 64 }, ..ProptestConfig::default() })]

    /// Rows and centroids lie around a common offset, so that what the kernels subtract matters.
    #[test]
    fn every_kernel_finds_the_nearest(
        n in 0usize..70, dim in 1usize..140, k in 1usize..100, offset in -2f32..2.0,
        exponent in prop::sample::select(&[0, 0, 5, 14][..]), random_seed in any::<u64>()
    ) {
        let offset = offset * 2f32.powi(exponent);
        let shift = |v: Vec<f32>| v.into_iter().map(|v| v + offset).collect::<Vec<f32>>();
        let (x, c) = (shift(data(n, dim, 5, random_seed)), shift(data(k, dim, 7, random_seed ^ 1)));
        let mut scratch = Scratch::default();
        for dtype in DTYPES {
            check_every_kernel(&x, &c, dim, dtype, &mut scratch);
        }
    }

    #[test]
    fn every_kernel_finds_the_nearest_of_hard_rows(
        n in 1usize..70, dim in 1usize..140, k in 1usize..70, random_seed in any::<u64>(), dtype in prop::sample::select(&DTYPES[..])
    ) {
        check_every_kernel(&hard(n, dim, random_seed, dtype), &hard(k, dim, !random_seed, dtype), dim, dtype, &mut Scratch::default());
    }

    /// Rows of few distinct whole numbers, most of them there many times, and centroids among them: scores tie all the
    /// time, and float32 is exact, so the lowest of the nearest it must be.
    #[test]
    fn ties_of_duplicates_go_to_the_lower_centroid(
        n in 1usize..70, dim in 1usize..40, k in 1usize..100, values in 1u64..4, random_seed in any::<u64>()
    ) {
        let whole = |n: usize, salt: u64| -> Vec<f32> {
            (0..n * dim).map(|i| (row_hash(random_seed ^ salt, (i % (2 * dim)) as u64) % values) as f32).collect()
        };
        let (x, c) = (whole(n, 0), whole(k, 0));
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let stored = Stored::new(&x, dim, dtype);
            for (kernel, name) in Kernel::available().filter(|(kernel, _)| kernel.rounding() == "float32") {
                let assigned = labels(kernel, &c, stored.rows(), &mut Scratch::default());
                for (x, label) in x.chunks(dim).zip(assigned) {
                    let scores: Vec<f64> = c.chunks(dim).map(|c| exact_score(x, c)).collect();
                    let nearest = (0..k).min_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
                    prop_assert_eq!(label as usize, nearest, "{} {}", name, dtype.name());
                }
            }
        }
    }
}

/// Numbers that no kernel rounds: whole ones up to 127, which is among each row's and each centroid's, so that int8 has
/// scale 1; and with each centroid its negative, so that their mean is zero. Products are far larger than what scores
/// differ by, so a kernel that weighs, packs or rounds anything wrongly errs here, where random rows may not show it.
#[test]
fn every_kernel_is_exact_where_nothing_needs_rounding() {
    let whole = |n: usize, dim: usize, random_seed: u64| -> Vec<f32> {
        let mut x: Vec<f32> = (0..n * dim).map(|i| (row_hash(random_seed, i as u64) % 5) as f32 - 2.0).collect();
        for (i, x) in x.chunks_mut(dim).enumerate() {
            let random = row_hash(!random_seed, i as u64);
            x[(random >> 8) as usize % dim.min(3)] = if random.is_multiple_of(2) { 127.0 } else { -127.0 };
        }
        x
    };
    let mut scratch = Scratch::default();
    for (number, dim) in [1, 3, 15, 16, 17, 32, 33, 64, 65, 130].into_iter().cycle().take(100).enumerate() {
        let (n, k) = (1 + number * 7 % 70, 1 + number * 11 % 100);
        let mut c = whole(k / 2, dim, number as u64);
        c.extend(c.clone().iter().map(|c| -c));
        c.resize(k * dim, 0.0);
        let x = whole(n, dim, 1000 + number as u64);
        let nearest = |x: &[f32]| {
            let scores: Vec<f64> = c.chunks(dim).map(|c| exact_score(x, c)).collect();
            (0..k as u32).min_by(|&a, &b| scores[a as usize].total_cmp(&scores[b as usize])).unwrap()
        };
        let truth: Vec<u32> = x.chunks(dim).map(nearest).collect();
        for dtype in DTYPES {
            let stored = Stored::new(&x, dim, dtype);
            for (kernel, name) in Kernel::available().filter(|(kernel, _)| kernel.takes(dtype)) {
                assert_eq!(labels(kernel, &c, stored.rows(), &mut scratch), truth, "{name} {} [{dim}]", dtype.name());
            }
        }
    }
}

/// Around every size at which a kernel's tiles, panels, groups or steps end; one scratch for all of them, so that what
/// a larger block left behind is there when a smaller one comes.
#[test]
fn every_kernel_at_the_edges_of_its_tiles() {
    let mut scratch = Scratch::default();
    for dim in [1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129] {
        for k in [1, 2, 15, 16, 17, 31, 32, 33, 64, 65] {
            for n in [65, 64, 33, 32, 31, 13, 12, 7, 6, 5, 4, 1, 0] {
                let random_seed = (dim * 10_000 + k * 100 + n) as u64;
                let dtype = DTYPES[(dim + k + n) % 4];
                check_every_kernel(
                    &data(n, dim, 9, random_seed),
                    &data(k, dim, 9, !random_seed),
                    dim,
                    dtype,
                    &mut scratch,
                );
            }
        }
    }
}

#[test]
fn ties_go_to_the_lower_centroid() {
    for k in [1, 15, 16, 17, 31, 32, 33, 70] {
        let centroids: Vec<f32> = std::iter::repeat_n([1.0f32, 2.0, 3.0], k).flatten().collect();
        for dtype in DTYPES {
            for value in [0.5, 0.0, 1.0, 2f32.powi(-140)] {
                let stored = Stored::new(&[value; 15], 3, dtype);
                for (kernel, name) in Kernel::available().filter(|(kernel, _)| kernel.takes(dtype)) {
                    let assigned = labels(kernel, &centroids, stored.rows(), &mut Scratch::default());
                    assert_eq!(assigned, [0; 5], "{name}, {value} of {}, {k} centroids", dtype.name());
                }
            }
        }
    }
}

/// int8 centroids are rounded to the nearest step, not down. v = (127, 3.9, ..., 3.9) has a step of 1; the centroids
/// are m + v and m - v, and m lies 25 / (2 |v|^2) of v behind the row (1, ..., 1), so that the first is nearer: its
/// score is higher by 25. Rounded to the nearest, the score of each of the 63 columns is off by +0.1 and -0.1, in
/// favour of the first; rounded down by -0.9 and -0.1, and the second would win by 25 - 63 * 0.8.
#[test]
fn int8_centroids_are_rounded_to_the_nearest() {
    let v: Vec<f32> = (0..64).map(|j| if j == 0 { 127.0 } else { 3.9 }).collect();
    let squared: f32 = v.iter().map(|v| v * v).sum();
    let centroid = |sign: f32| v.iter().map(move |v| 1.0 - 25.0 / (2.0 * squared) * v + sign * v);
    let (q, scales) = ([1i8; 64], [1f32]);
    let rows = Rows::new(Dtype::I8, 64, cast_slice(&q), &scales).unwrap();
    for (signs, expected) in [([1.0, -1.0], 0), ([-1.0, 1.0], 1)] {
        let centroids: Vec<f32> = signs.into_iter().flat_map(centroid).collect();
        for (kernel, name) in Kernel::available().filter(|(kernel, _)| kernel.rounding() == "int8") {
            assert_eq!(labels(kernel, &centroids, rows, &mut Scratch::default()), [expected], "{name}");
        }
    }
}
