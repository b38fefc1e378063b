use proptest::prelude::*;

use super::*;
use crate::rows::distances::squared_distance;

/// One Lloyd step in float64, written to be obviously right.
fn naive_step(x: &[f32], centroids: &[f32], dim: usize) -> (Vec<f64>, f64) {
    let (mut sums, mut counts, mut inertia) = (vec![0f64; centroids.len()], vec![0f64; centroids.len() / dim], 0.0);
    for row in x.chunks(dim) {
        let d = |c: &[f32]| row.iter().zip(c).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
        let distances: Vec<f64> = centroids.chunks(dim).map(d).collect();
        let k = (0..distances.len()).min_by(|&a, &b| distances[a].total_cmp(&distances[b])).unwrap();
        inertia += distances[k];
        counts[k] += 1.0;
        row.iter().enumerate().for_each(|(j, &v)| sums[k * dim + j] += f64::from(v));
    }
    let mean = |i: usize| if counts[i / dim] > 0.0 { sums[i] / counts[i / dim] } else { f64::from(centroids[i]) };
    ((0..centroids.len()).map(mean).collect(), inertia)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 64 }, ..ProptestConfig::default() })]

    /// A Lloyd step against the naive one. Blobs keep every row clear of a tie, so the labels agree; then a mean of n
    /// values below 1.1 is off by at most n + 1 roundings of float32 each.
    #[test]
    fn a_step_is_the_naive_step(n in 20usize..200, dim in 1usize..20, random_seed in any::<u64>()) {
        let x = data(n, dim, 4, random_seed);
        let start: Vec<f32> = x[..4 * dim].to_vec();
        let mut opts = options(4);
        (opts.init, opts.max_iter) = (Init::Centroids(start.clone()), 1);
        let distinct = (1..4).all(|k| (0..k).all(|j| squared_distance(&start[k * dim..][..dim], &start[j * dim..][..dim]) > 0.0));
        let margin = |row: &[f32]| {
            let mut d: Vec<f32> = start.chunks(dim).map(|c| squared_distance(row, c)).collect();
            d.sort_by(f32::total_cmp);
            d[1] - d[0]
        };
        prop_assume!(distinct && x.chunks(dim).all(|row| margin(row) > 1e-4));
        let fitted = run(&x, dim, &opts).unwrap();
        let (expected, _) = naive_step(&x, &start, dim);
        for (a, b) in fitted.centroids.iter().zip(&expected) {
            prop_assert!((f64::from(*a) - b).abs() <= (n as f64 + 1.0) * f64::from(f32::EPSILON) * 1.1, "{} {}", a, b);
        }
        let inertia = naive_step(&x, &fitted.centroids, dim).1;
        // Each squared distance has at most dim + 3 roundings, all of one sign's terms.
        prop_assert!((fitted.inertia - inertia).abs() <= (dim as f64 + 3.0) * f64::from(f32::EPSILON) * inertia + 1e-12);
        prop_assert_eq!(fitted.counts.iter().sum::<u64>(), n as u64);
    }
}

#[test]
fn threads_and_shard_sizes_do_not_change_a_bit() {
    // More than two chunks of 8,192 rows, so that sums of chunks are added.
    let (n, dim) = (17_000, 9);
    let x = data(n, dim, 20, 5);
    let valid: Vec<u8> = (0..n).map(|row| u8::from(row % 11 != 0)).collect();
    for dtype in DTYPES {
        let mut results = Vec::new();
        for (rows_per_shard, n_threads) in [(17_000, 1), (777, 2), (4096, 3), (8191, 5)] {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::create(directory.path(), dim, dtype, rows_per_shard, false).unwrap();
            for (index, (x, valid)) in x.chunks(rows_per_shard * dim).zip(valid.chunks(rows_per_shard)).enumerate() {
                let rows = Rows::new(Dtype::F32, dim, cast_slice(x), &[]).unwrap();
                let valid = TensorData { name: "valid", dtype: Dtype::U8, shape: vec![valid.len()], bytes: valid };
                store.write_shard(index, rows, &[valid]).unwrap();
            }
            let source = Source::store(&store).unwrap();
            for (kernel, _) in Kernel::available() {
                for (train_rows, unit_normalize) in [(None, false), (Some(12_000), false), (None, true)] {
                    // Rows are read as float32 to be normalised.
                    if !kernel.takes(if unit_normalize { Dtype::F32 } else { dtype }) {
                        continue;
                    }
                    let kernel_option = Some(kernel);
                    let opts = Options {
                        n_threads,
                        kernel: kernel_option,
                        train_rows,
                        unit_normalize,
                        max_iter: 2,
                        ..options(24)
                    };
                    let fitted = fit(&source, &opts, &Supervisor::none()).unwrap();
                    let centroids = &fitted.centroids;
                    let model = Model { centroids, unit_normalize, kernel: kernel_option, n_threads };
                    let (labels, distances) = predict(&source, &model, &Supervisor::none()).unwrap();
                    assert!(labels
                        .iter()
                        .zip(&distances)
                        .zip(&valid)
                        .all(|((&l, d), &v)| (l == INVALID) == (v == 0) && d.is_nan() == (v == 0)));
                    // As bits: a NaN is not equal to itself.
                    let distances: Vec<u32> = distances.into_iter().map(f32::to_bits).collect();
                    results.push(((kernel.rounding(), train_rows, unit_normalize), fitted, labels, distances));
                }
            }
        }
        for result in &results {
            let first = results.iter().find(|first| first.0 == result.0).unwrap();
            assert!(result == first, "{dtype:?} {:?}", result.0);
        }
        assert_ne!(results[0].1, results[1].1, "training on a sample is another problem");
        assert_ne!(results[0].1, results[2].1, "and so is looking at directions");
    }
}

/// Rows of deviation 0.06 a column, at up to a million times that from the origin. float32 holds them there to 2^-8.
#[test]
fn blobs_far_from_the_origin_are_found() {
    let (n, dim, k) = (20_000, 7, 12);
    let x = data(n, dim, k, 5);
    let labels = |x: &[f32], kernel, n_threads| {
        // A row of each blob, so that the fit is not about the start.
        let (mut start, mut given) = (Vec::new(), std::collections::BTreeSet::new());
        for (i, x) in x.chunks(dim).enumerate() {
            if given.insert(crate::hash::row_hash(5, i as u64) as usize % k) {
                start.extend_from_slice(x);
            }
        }
        let opts = Options { init: Init::Centroids(start), kernel: Some(kernel), n_threads, ..options(k) };
        let fitted = run(x, dim, &opts).unwrap();
        let model = Model { centroids: &fitted.centroids, unit_normalize: false, kernel: Some(kernel), n_threads };
        let (labels, _) = predict(&array(x, dim), &model, &Supervisor::none()).unwrap();
        (fitted, labels)
    };
    let (near, expected) = labels(&x, Kernel::Scalar, 1);
    for shift in [100.0f32, -3000.0, 60_000.0] {
        let far: Vec<f32> = x.iter().enumerate().map(|(i, x)| if i % dim == 3 { *x } else { x + shift }).collect();
        let mut bits = Vec::new();
        for (kernel, name) in Kernel::available().filter(|(kernel, _)| kernel.takes(Dtype::F32)) {
            let (fitted, assigned) = labels(&far, kernel, 1 + bits.len());
            assert_eq!(assigned, expected, "{name}, {shift}");
            // A rounded row is off by half a step of float32, and so are its mean and the rounded centroid.
            let step = f64::from(shift.abs()) * 2f64.powi(-23);
            for (i, (c, near)) in fitted.centroids.iter().zip(&near.centroids).enumerate() {
                let moved = if i % dim == 3 { 0.0 } else { f64::from(shift) };
                assert!((f64::from(*c) - moved - f64::from(*near)).abs() <= step + 1e-4, "{name}, {shift}: {c} {near}");
            }
            if kernel.rounding() == "float32" {
                bits.push(fitted);
            }
        }
        assert!(bits.windows(2).all(|pair| pair[0] == pair[1]), "{shift}");
    }
}

/// Weights of 1/4, 1/2 and 1 are as 1, 2 and 4 copies of a row; rows of weight 0 are not there.
#[test]
fn weights_stand_for_copies() {
    let (n, dim, k) = (9_000, 3, 5);
    let x = data(n, dim, k, 6);
    let copies: Vec<usize> = (0..n).map(|i| [1, 2, 4, 0, 1][i % 5]).collect();
    let repeated: Vec<f32> = x.chunks(dim).zip(&copies).flat_map(|(x, &c)| x.repeat(c)).collect();
    let weights: Vec<f32> = copies.iter().map(|&c| c as f32 / 4.0).collect();
    let start = Init::Centroids(x[..k * dim].to_vec());
    let mut opts = Options { init: start, max_iter: 4, ..options(k) };
    let expected = run(&repeated, dim, &opts).unwrap();
    (opts.weights, opts.n_threads) = (Some(weights.clone()), 1);
    let fitted = run(&x, dim, &opts).unwrap();
    let rounding = f64::from(f32::EPSILON) * repeated.len() as f64;
    for (a, b) in fitted.centroids.iter().zip(&expected.centroids) {
        assert!(f64::from((a - b).abs()) < rounding, "{a} {b}");
    }
    assert!((4.0 * fitted.inertia - expected.inertia).abs() < rounding * expected.inertia);
    assert_eq!(fitted.counts.iter().sum::<u64>(), copies.iter().filter(|&&c| c > 0).count() as u64);
    opts.n_threads = 3;
    assert_eq!(run(&x, dim, &opts).unwrap(), fitted);
    // k-means++ draws only rows with a weight, a cluster that lost its rows gets only such a row, and so does a sample.
    let mut weights = vec![0f32; n];
    (0..9).for_each(|i| weights[i * 7] = 0.5);
    for train_rows in [None, Some(9)] {
        let opts = Options { weights: Some(weights.clone()), train_rows, ..options(9) };
        let fitted = run(&x, dim, &opts).unwrap();
        assert_eq!((fitted.inertia, fitted.counts), (0.0, vec![1; 9]));
        let mut centroids: Vec<_> = fitted.centroids.chunks(dim).map(<[f32]>::to_vec).collect();
        let mut rows: Vec<_> = (0..9).map(|i| x[i * 7 * dim..][..dim].to_vec()).collect();
        centroids.sort_by(|a, b| a[0].total_cmp(&b[0]));
        rows.sort_by(|a, b| a[0].total_cmp(&b[0]));
        assert_eq!(centroids, rows);
    }
    for bad in [vec![1.0; n - 1], vec![-1.0; n], vec![f32::NAN; n]] {
        let opts = Options { weights: Some(bad), ..options(2) };
        assert!(run(&x, dim, &opts).unwrap_err().to_string().starts_with("sample_weight: expected"));
    }
}

#[test]
fn the_inertia_never_rises() {
    let (x, mut seen) = (data(3000, 6, 12, 8), Vec::new());
    for max_iter in 1..8 {
        seen.push(run(&x, 6, &Options { max_iter, ..options(12) }).unwrap().inertia);
    }
    assert!(seen.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-6)), "{seen:?}");
}

#[test]
fn edge_cases_of_k() {
    let x = data(50, 3, 50, 1);
    let single = run(&x, 3, &options(1)).unwrap();
    assert_eq!(single.counts, [50]);
    let all = run(&x, 3, &options(50)).unwrap();
    assert_eq!((all.inertia, all.counts), (0.0, vec![1; 50]));
    for k in [0, 51] {
        assert!(run(&x, 3, &options(k)).unwrap_err().to_string().contains("1 to the number of rows, 50"));
    }
    assert!(run(&[], 3, &options(1)).is_err());
    let equal = run(&[0.5; 60], 3, &options(7)).unwrap();
    assert_eq!((equal.inertia, equal.counts), (0.0, vec![20, 0, 0, 0, 0, 0, 0]));
    // Two distinct values, five times each: two clusters suffice, the others stay empty.
    let pairs: Vec<f32> = (0..10).map(|i| (i % 2) as f32).collect();
    assert_eq!(run(&pairs, 1, &options(4)).unwrap().inertia, 0.0);
}

#[test]
fn an_empty_cluster_gets_the_farthest_row() {
    // The second centroid is nobody's nearest; 100 lies farthest from the first.
    let x = [0.0f32, 1.0, 2.0, 100.0];
    let opts = Options { init: Init::Centroids(vec![1.0, -1e6]), max_iter: 3, ..options(2) };
    let fitted = run(&x, 1, &opts).unwrap();
    assert_eq!((fitted.centroids, fitted.counts, fitted.inertia), (vec![1.0, 100.0], vec![3, 1], 2.0));
}

/// Rows as large and as small as float32 lets them be: nothing overflows, and all that counts is finite.
#[test]
fn extreme_rows_give_finite_answers() {
    let dim = 4;
    for exponent in [61, 30, -60, -100, -146] {
        // 4 columns of at most 1.1 times 2^61: a squared norm below 2^125, where rows end.
        let x: Vec<f32> =
            data(600, dim, 6, 4).iter().map(|&v| (f64::from(v) * 2f64.powi(exponent)) as f32 * 0.9).collect();
        for (kernel, name) in Kernel::available().filter(|(kernel, _)| kernel.takes(Dtype::F32)) {
            for unit_normalize in [false, true] {
                let opts = Options { kernel: Some(kernel), unit_normalize, ..options(6) };
                let fitted = run(&x, dim, &opts).unwrap();
                let what = format!("{name}, 2^{exponent}, {unit_normalize}");
                assert!(fitted.inertia.is_finite() && fitted.inertia >= 0.0, "{what}");
                assert!(fitted.centroids.iter().all(|c| c.is_finite()), "{what}");
                assert_eq!(fitted.counts.iter().sum::<u64>(), 600, "{what}");
            }
        }
    }
}

#[test]
fn unit_normalize_looks_at_directions_only() {
    let x = data(500, 5, 9, 4);
    let scaled: Vec<f32> =
        x.chunks(5).enumerate().flat_map(|(i, row)| row.iter().map(move |v| v * 2f32.powi(i as i32 % 5))).collect();
    let opts = Options { unit_normalize: true, ..options(9) };
    // Powers of two do not round: the rows are the same directions to the last bit.
    let (a, b) = (run(&x, 5, &opts).unwrap(), run(&scaled, 5, &opts).unwrap());
    assert_eq!(a, b);
    for centroid in a.centroids.chunks(5) {
        let norm = centroid.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        assert!((norm - 1.0).abs() < 8.0 * f64::from(f32::EPSILON));
    }
}

/// From 2,048 centroids on, searches learn from one another. The scalar kernel does not.
fn assert_that_learning_changes_no_bit(source: &Source, start: &[f32]) {
    let k = start.len() / source.dim();
    let mut fits = Vec::new();
    for (kernel, name) in Kernel::available().filter(|(kernel, _)| kernel.rounding() == "float32") {
        let opts = Options { kernel: Some(kernel), max_iter: 4, init: Init::Centroids(start.to_vec()), ..options(k) };
        fits.push((name, fit(source, &opts, &Supervisor::none()).unwrap()));
    }
    for (name, fitted) in &fits {
        assert_eq!(fitted.centroids, fits[0].1.centroids, "{name}");
        assert_eq!(fitted.inertia.to_bits(), fits[0].1.inertia.to_bits(), "{name}");
    }
}

#[test]
fn searches_that_learn_change_no_bit() {
    let (n, dim, k) = (if cfg!(miri) { 2100 } else { 9000 }, 3, 2048);
    let x = data(n, dim, 300, 11);
    assert_that_learning_changes_no_bit(&array(&x, dim), &x[..k * dim]);
}

/// Blocks of 512 rows have some invalid rows or nothing but those.
#[cfg(not(miri))]
#[test]
fn searches_learn_from_blocks_with_invalid_rows() {
    let (n, dim, k) = (9000, 3, 2048);
    let x = data(n, dim, 300, 11);
    let valid: Vec<u8> = (0..n).map(|row| u8::from(row % 11 != 0 && !(3000..5000).contains(&row))).collect();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(directory.path(), dim, Dtype::F32, n, false).unwrap();
    let valid = TensorData { name: "valid", dtype: Dtype::U8, shape: vec![n], bytes: &valid };
    store.write_shard(0, Rows::new(Dtype::F32, dim, cast_slice(&x), &[]).unwrap(), &[valid]).unwrap();
    assert_that_learning_changes_no_bit(&Source::store(&store).unwrap(), &x[..k * dim]);
}

/// An int8 fit in one go, and one of single iterations, of which none learns.
#[cfg(not(miri))]
#[test]
fn int8_searches_that_learn_change_no_bit() {
    let (n, dim, k) = (9000, 7, 2048);
    let x = data(n, dim, 300, 11);
    let valid: Vec<u8> = (0..n).map(|row| u8::from(row % 11 != 0 && !(3000..5000).contains(&row))).collect();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(directory.path(), dim, Dtype::I8, n, false).unwrap();
    let valid = TensorData { name: "valid", dtype: Dtype::U8, shape: vec![n], bytes: &valid };
    store.write_shard(0, Rows::new(Dtype::F32, dim, cast_slice(&x), &[]).unwrap(), &[valid]).unwrap();
    let source = Source::store(&store).unwrap();
    let mut fits = Vec::new();
    for (kernel, _) in Kernel::available().filter(|(kernel, _)| kernel.rounding() == "int8") {
        let run = |start: &[f32], max_iter| {
            let init = Init::Centroids(start.to_vec());
            let opts = Options { kernel: Some(kernel), max_iter, init, tol: 0.0, ..options(k) };
            fit(&source, &opts, &Supervisor::none()).unwrap()
        };
        let whole = run(&x[..k * dim], 5);
        let steps = (0..5).fold(x[..k * dim].to_vec(), |start, _| run(&start, 1).centroids);
        assert_eq!(whole.centroids, steps, "{kernel:?}");
        fits.push(whole);
    }
    assert!(fits.iter().all(|fitted| fitted.centroids == fits[0].centroids && fitted.inertia == fits[0].inertia));
}
