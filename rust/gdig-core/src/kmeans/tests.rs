mod kernels;

use bytemuck::cast_slice;
use proptest::prelude::*;

use super::source::squared_distance;
use super::tally::{Isa, Tally};
use super::*;
use crate::hash::{row_hash, unit};
use crate::interrupt::{supervise, Progress};
use crate::store::{shard_name, Appender, Store, TensorData};
use crate::Dtype;
use kernels::{Stored, DTYPES};

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
        kernel: None,
        n_threads: 2,
        checkpoint: None,
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
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 64 }, ..ProptestConfig::default() })]

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

/// What a tally takes does not depend on the instruction set it is compiled for.
#[test]
fn tallies_agree_to_the_last_bit() {
    for (dim, dtype) in [(1, Dtype::F32), (16, Dtype::F16), (37, Dtype::BF16), (37, Dtype::F16), (51, Dtype::I8)] {
        let (x, c) = (data(40, dim, 5, 1), data(6, dim, 3, 2));
        let stored = Stored::new(&x, dim, dtype);
        let labels: Vec<u32> = (0..40).map(|i| i % 6).collect();
        let mut decoded = vec![0f32; x.len()];
        stored.rows().decode(&mut decoded);
        let mut expected = vec![0f32; c.len()];
        for (x, &label) in decoded.chunks(dim).zip(&labels) {
            expected[label as usize * dim..][..dim].iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
        }
        let nearest =
            decoded.chunks(dim).zip(&labels).map(|(x, &l)| squared_distance(x, &c[l as usize * dim..][..dim]));
        let nearest: Vec<f32> = nearest.collect();
        for isa in Isa::available() {
            let (mut tally, mut sums) = (Tally::new(Some(isa)), vec![0f32; c.len()]);
            tally.add(stored.rows(), &labels, &c, &mut sums).unwrap();
            assert_eq!((&sums, &tally.distances), (&expected, &nearest), "{isa:?} {dtype:?}");
            tally.measure(stored.rows(), &labels, &c).unwrap();
            assert_eq!(&tally.distances, &nearest);
        }
    }
}

#[test]
fn a_fit_goes_on_from_its_checkpoint_to_the_same_bits() {
    let (x, directory) = (data(3000, 6, 12, 8), tempfile::tempdir().unwrap());
    let checkpoint = Some(directory.path().join("fit.safetensors"));
    for (tol, train_rows) in [(0.0, None), (1e-3, None), (0.0, Some(2000))] {
        let opts = |max_iter, checkpoint| Options { max_iter, tol, train_rows, checkpoint, ..options(12) };
        let whole = run(&x, 6, &opts(20, None)).unwrap();
        for stopped_after in 1..whole.n_iter {
            run(&x, 6, &opts(stopped_after, checkpoint.clone())).unwrap();
            let mut iterations = Vec::new();
            let mut watch = |progress| {
                if let Some(Progress::Iteration { iteration, .. }) = progress {
                    iterations.push(iteration);
                }
                true
            };
            let resumed = opts(20, checkpoint.clone());
            let again = supervise(&mut watch, |supervisor| fit(&array(&x, 6), &resumed, supervisor)).unwrap();
            assert_eq!(again, whole);
            assert_eq!(iterations, (stopped_after + 1..=whole.n_iter).collect::<Vec<_>>());
            // It ended: now there is nothing left to iterate.
            assert_eq!(run(&x, 6, &resumed).unwrap(), whole);
        }
    }
    // Another fit's, a longer fit's and a damaged file are not gone on from.
    let path = checkpoint.clone().unwrap();
    let short = Options { max_iter: 2, ..options(12) };
    let fresh = run(&x, 6, &short).unwrap();
    run(&x, 6, &Options { checkpoint: checkpoint.clone(), ..options(12) }).unwrap();
    assert_eq!(run(&x, 6, &Options { checkpoint: checkpoint.clone(), ..short }).unwrap(), fresh);
    let other = Options { seed: 4, max_iter: 2, ..options(12) };
    let fresh = run(&x, 6, &other).unwrap();
    let other = Options { checkpoint, ..other };
    assert_eq!(run(&x, 6, &other).unwrap(), fresh);
    let sound = std::fs::read(&path).unwrap();
    std::fs::write(&path, &sound[..sound.len() - 1]).unwrap();
    assert_eq!(run(&x, 6, &other).unwrap(), fresh);
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
fn the_first_bad_row_is_named_whatever_reads_it() {
    let (n, dim, first) = (9000, 5, 8211);
    let x = data(n, dim, 5, 2);
    let start = x[..3 * dim].to_vec();
    for dtype in DTYPES {
        // Of int8 the scale; what is finite and still too large fits in three of the types only.
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
            if dtype == Dtype::F16 && value.is_finite() {
                continue;
            }
            let mut stored = Stored::new(&x, dim, dtype);
            [(first, 3), (first + 1, 0), (n - 1, dim - 1)].iter().for_each(|&(i, j)| stored.spoil(i, j, value));
            let source = Source::Array(stored.rows());
            let (kernels, mut modes) = (Kernel::available().map(|(kernel, _)| kernel), Vec::new());
            kernels.for_each(|kernel| modes.extend([(kernel, false), (kernel, true)]));
            for (kernel, unit_normalize) in modes {
                if !kernel.takes(if unit_normalize { Dtype::F32 } else { dtype }) {
                    continue;
                }
                let named = |error: Error| {
                    let message = error.to_string();
                    let what = format!("{kernel:?} {} {value} {unit_normalize}: {message}", dtype.name());
                    assert!(message.starts_with(&format!("row {first}")), "{what}");
                    let column = if dtype == Dtype::I8 { 0 } else { 3 };
                    assert!(value.is_finite() || message.contains(&format!("column {column}: ")), "{what}");
                };
                let kernel = Some(kernel);
                for train_rows in [None, Some(n - 1)] {
                    let init = Init::Centroids(start.clone());
                    let opts = Options { train_rows, kernel, unit_normalize, init, ..options(3) };
                    named(fit(&source, &opts, &Supervisor::none()).unwrap_err());
                }
                let model = Model { centroids: &start, unit_normalize, kernel, n_threads: 2 };
                named(predict(&source, &model, &Supervisor::none()).unwrap_err());
            }
        }
    }
}

#[test]
fn a_sample_names_its_bad_row() {
    for bad in [f32::NAN, f32::INFINITY, 1e30] {
        let mut x = data(20_000, 2, 5, 2);
        (x[2 * 12_345 + 1], x[2 * 19_000]) = (bad, bad);
        for train_rows in [None, Some(19_999)] {
            let error = run(&x, 2, &Options { train_rows, ..options(3) }).unwrap_err().to_string();
            assert!(error.starts_with("row 12345"), "{error}");
        }
    }
}

#[test]
fn centroids_whose_distances_overflow_are_refused() {
    let x = data(50, 2, 5, 2);
    for bad in [f32::NAN, f32::INFINITY, 1e30, 7e18] {
        let given = vec![0.0, 1.0, bad, 0.0];
        let opts = Options { init: Init::Centroids(given.clone()), ..options(2) };
        let error = run(&x, 2, &opts).unwrap_err().to_string();
        assert!(error.contains("init: expected") && error.contains("centroid 1"), "{error}");
        let model = Model { centroids: &given, unit_normalize: false, kernel: None, n_threads: 1 };
        let error = predict(&array(&x, 2), &model, &Supervisor::none()).unwrap_err().to_string();
        assert!(error.contains("centroid 1"), "{error}");
    }
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
    let model = Model { centroids: &x[..8 * dim], unit_normalize: false, kernel: None, n_threads: 2 };
    let go = |centroids: &[f32]| {
        let model = Model { centroids, ..model };
        let paths = predict_to(&source, &model, &out, 0, None, &Supervisor::none()).unwrap();
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
        &Model { centroids: &x[..4], unit_normalize: false, kernel: None, n_threads: 1 },
        store.path(),
        0,
        None,
        &Supervisor::none()
    )
    .is_err());
    // In parts, to another directory: what another process is writing there is left alone.
    let (shared, model) = (directory.path().join("shared"), Model { centroids: &x[dim..9 * dim], ..model });
    let (foreign, own) =
        (shared.join(".00000000.safetensors.1-0-0.tmp"), shared.join(".00000001.safetensors.1-0-0.tmp"));
    std::fs::create_dir(&shared).unwrap();
    for file in [&foreign, &own, &shared.join("00000009.safetensors")] {
        std::fs::write(file, "").unwrap();
    }
    let part = |shards| predict_to(&source, &model, &shared, 0, Some(shards), &Supervisor::none());
    assert_eq!(part(1..3).unwrap().len(), 2);
    assert!(foreign.exists() && !own.exists() && shared.join("00000009.safetensors").exists());
    assert_eq!((part(0..1).unwrap().len(), part(3..4).unwrap().len(), part(2..2).unwrap().len()), (1, 1, 0));
    assert!(!shared.join("00000009.safetensors").exists(), "who has the last shard removes those of an earlier source");
    for (i, path) in paths.iter().enumerate() {
        assert_eq!(std::fs::read(path).unwrap(), std::fs::read(shared.join(shard_name(i))).unwrap());
    }
    assert!(part(3..5).is_err());
}
