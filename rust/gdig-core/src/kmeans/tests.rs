use bytemuck::cast_slice;
use proptest::prelude::*;

use super::assign::{Assigner, Scratch};
use super::source::squared_distance;
use super::*;
use crate::hash::{row_hash, unit};
use crate::store::{Appender, Store, TensorData};

/// `n` rows of `dim` columns, in -1..1, in as many blobs as `blobs`.
fn data(n: usize, dim: usize, blobs: usize, seed: u64) -> Vec<f32> {
    let u = |i: usize, salt: u64| (unit(row_hash(seed ^ salt, i as u64)) * 2.0 - 1.0) as f32;
    let center = |row: usize, j: usize| u((row_hash(seed, row as u64) as usize % blobs) * dim + j, 77);
    (0..n * dim).map(|i| center(i / dim, i % dim) + 0.1 * u(i, 99)).collect()
}

fn array(x: &[f32], dim: usize) -> Source<'_> {
    Source::Array(Rows::new(Dtype::F32, dim, cast_slice(x), &[]).unwrap())
}

fn options(k: usize) -> Options {
    Options {
        n_clusters: k,
        init: Init::PlusPlus,
        max_iter: 10,
        tol: 0.0,
        seed: 3,
        train_rows: None,
        unit_normalize: false,
        kernel: Kernel::detect(),
        n_threads: 2,
    }
}

fn run(x: &[f32], dim: usize, options: &Options) -> Result<Fitted> {
    fit(&array(x, dim), options, &Supervisor::none())
}

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
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The kernels give the scalar one's labels, exactly; and that label is the nearest centroid up to rounding: the
    /// score |c|^2/2 - x.c has dim + 2 roundings of terms bounded by |x||c| + |c|^2/2, so two scores whose order
    /// differs from the exact one are no farther apart than twice that bound.
    #[test]
    fn every_kernel_finds_the_nearest(n in 0usize..70, dim in 1usize..70, k in 1usize..100, seed in any::<u64>()) {
        let (x, c) = (data(n, dim, 5, seed), data(k, dim, 7, seed ^ 1));
        let labels = |kernel| {
            let mut labels = vec![9; n];
            Assigner::new(kernel, &c, dim).assign(&x, &mut labels, &mut Scratch::default());
            labels
        };
        let truth = labels(Kernel::Scalar);
        for (kernel, name) in Kernel::ALL.into_iter().filter(|(kernel, _)| kernel.is_available()) {
            prop_assert_eq!(&labels(kernel), &truth, "{}", name);
        }
        for (x, &label) in x.chunks(dim).zip(&truth) {
            let norm2 = |v: &[f32]| v.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>();
            let exact = |c: &[f32]| norm2(c) / 2.0 - x.iter().zip(c).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let chosen = &c[label as usize * dim..][..dim];
            for other in c.chunks(dim) {
                let size = |c: &[f32]| (norm2(x) * norm2(c)).sqrt() + norm2(c) / 2.0;
                let bound = 2.0 * (dim as f64 + 2.0) * f64::from(f32::EPSILON) * size(chosen).max(size(other));
                prop_assert!(exact(chosen) <= exact(other) + bound);
            }
        }
    }

    /// A Lloyd step against the naive one. Blobs keep every row clear of a tie, so the labels agree; then a mean of n
    /// values below 1.1 is off by at most n + 1 roundings of float32 each.
    #[test]
    fn a_step_is_the_naive_step(n in 20usize..200, dim in 1usize..20, seed in any::<u64>()) {
        let x = data(n, dim, 4, seed);
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
fn ties_go_to_the_lower_centroid() {
    let centroids: Vec<f32> = std::iter::repeat_n([1.0f32, 2.0, 3.0], 70).flatten().collect();
    for (kernel, name) in Kernel::ALL.into_iter().filter(|(kernel, _)| kernel.is_available()) {
        let mut labels = vec![9; 5];
        Assigner::new(kernel, &centroids, 3).assign(&[0.5; 15], &mut labels, &mut Scratch::default());
        assert_eq!(labels, [0; 5], "{name}");
    }
}

#[test]
fn threads_kernels_and_shard_sizes_do_not_change_a_bit() {
    // More than two chunks of 8,192 rows, so that sums of chunks are added.
    let (n, dim) = (20_000, 9);
    let x = data(n, dim, 30, 5);
    let valid: Vec<u8> = (0..n).map(|row| u8::from(row % 11 != 0)).collect();
    let mut results: Vec<(Fitted, Vec<u32>)> = Vec::new();
    for (rows_per_shard, n_threads, kernel) in
        [(20_000, 1, Kernel::detect()), (777, 2, Kernel::Scalar), (4096, 3, Kernel::Portable)]
    {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), dim, Dtype::F16, rows_per_shard, false).unwrap();
        for (index, (x, valid)) in x.chunks(rows_per_shard * dim).zip(valid.chunks(rows_per_shard)).enumerate() {
            let rows = Rows::new(Dtype::F32, dim, cast_slice(x), &[]).unwrap();
            let valid = TensorData { name: "valid", dtype: Dtype::U8, shape: vec![valid.len()], bytes: valid };
            store.write_shard(index, rows, &[valid]).unwrap();
        }
        let source = Source::store(&store).unwrap();
        for train_rows in [None, Some(15_000)] {
            let opts = Options { n_threads, kernel, train_rows, max_iter: 4, ..options(40) };
            let fitted = fit(&source, &opts, &Supervisor::none()).unwrap();
            let model = Model { centroids: &fitted.centroids, unit_normalize: false, kernel, n_threads };
            let (labels, distances) = predict(&source, &model, &Supervisor::none()).unwrap();
            assert!(labels
                .iter()
                .zip(&distances)
                .zip(&valid)
                .all(|((&l, d), &v)| (l == INVALID) == (v == 0) && d.is_nan() == (v == 0)));
            results.push((fitted, labels));
        }
    }
    for (i, result) in results.iter().enumerate().skip(2) {
        assert_eq!(result, &results[i % 2]);
    }
    assert_ne!(results[0].0, results[1].0, "training on a sample is another problem");
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
    let one = run(&x, 3, &options(1)).unwrap();
    assert_eq!(one.counts, [50]);
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

#[test]
fn bad_rows_are_named() {
    for bad in [f32::NAN, f32::INFINITY, 1e30] {
        let mut x = data(20_000, 2, 5, 2);
        (x[2 * 12_345 + 1], x[2 * 19_000]) = (bad, bad);
        for train_rows in [None, Some(19_999)] {
            let error = run(&x, 2, &Options { train_rows, ..options(3) }).unwrap_err().to_string();
            assert!(error.starts_with("row 12345"), "{error}");
        }
        let model = Model { centroids: &[0.0, 1.0], unit_normalize: false, kernel: Kernel::detect(), n_threads: 2 };
        assert!(predict(&array(&x, 2), &model, &Supervisor::none()).unwrap_err().to_string().starts_with("row 12345"));
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

#[test]
fn predictions_on_disk_are_kept_when_sound_and_made_again_when_not() {
    let (dim, x) = (4, data(1000, 4, 6, 6));
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(&directory.path().join("store"), dim, Dtype::I8, 300, false).unwrap();
    let mut appender = Appender::new(&store).unwrap();
    appender.append(Rows::new(Dtype::F32, dim, cast_slice(&x), &[]).unwrap()).unwrap();
    appender.flush().unwrap();
    let source = Source::store(&store).unwrap();
    let out = directory.path().join("labels");
    let go = |centroids: &[f32]| {
        let model = Model { centroids, unit_normalize: false, kernel: Kernel::detect(), n_threads: 2 };
        let paths = predict_to(&source, &model, &out, 0, &Supervisor::none()).unwrap();
        let stamp = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
        (paths.iter().map(stamp).collect::<Vec<_>>(), paths)
    };
    let (first, paths) = go(&x[..8 * dim]);
    assert_eq!(paths.len(), 4);
    assert_eq!(go(&x[..8 * dim]).0, first, "nothing was written again");
    let sound = std::fs::read(&paths[1]).unwrap();
    std::fs::write(&paths[1], &sound[..sound.len() - 1]).unwrap();
    std::fs::remove_file(&paths[2]).unwrap();
    let (second, _) = go(&x[..8 * dim]);
    assert_eq!((second[0], second[3]), (first[0], first[3]));
    assert_eq!(std::fs::read(&paths[1]).unwrap(), sound);
    let (third, _) = go(&x[dim..9 * dim]);
    assert!(third.iter().zip(&second).all(|(a, b)| a != b), "other centroids, other labels");
    assert!(predict_to(
        &source,
        &Model { centroids: &x[..4], unit_normalize: false, kernel: Kernel::detect(), n_threads: 1 },
        store.path(),
        0,
        &Supervisor::none()
    )
    .is_err());
}
