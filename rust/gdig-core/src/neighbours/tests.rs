use bytemuck::cast_slice;
use proptest::prelude::*;

use super::columns::ColumnBlock;
use super::exact::exact_of;
use super::kernels::Kernels;
use super::*;
use crate::convert::Rows;
use crate::hash::{row_hash, unit};
use crate::interrupt::Supervisor;
use crate::rows::units::{cosine, gather, scale, valid_rows};
use crate::rows::Source;
use crate::simd::Kernel;
use crate::store::{Store, TensorData};
use crate::testing::array;
use crate::Dtype;

/// Rows around `blobs` centres, in -1..1.
fn data(n: usize, dim: usize, blobs: usize, spread: f64, random_seed: u64) -> Vec<f32> {
    let u = |i: usize, salt: u64| unit(row_hash(random_seed ^ salt, i as u64)) * 2.0 - 1.0;
    let center = |row: usize, j: usize| u((row_hash(random_seed, row as u64) as usize % blobs) * dim + j, 77);
    (0..n * dim).map(|i| (center(i / dim, i % dim) + spread * u(i, 99)) as f32).collect()
}

fn options(k: usize, kernel: Option<Kernel>, n_threads: usize) -> Options {
    Options { k, kernel, n_threads }
}

/// All pairs, sorted whole.
fn naive(x: &[f32], dim: usize, k: usize, valid: impl Fn(usize) -> bool) -> Graph {
    let n = x.len() / dim;
    let units: Vec<Vec<f64>> = x
        .chunks(dim)
        .map(|x| {
            let norm = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            x.iter().map(|&x| if norm > 0.0 { f64::from((f64::from(x) / norm) as f32) } else { 0.0 }).collect()
        })
        .collect();
    let mut graph = Graph::empty(n, k);
    for i in (0..n).filter(|&i| valid(i)) {
        let cosine = |j: usize| units[i].iter().zip(&units[j]).map(|(a, b)| a * b).sum::<f64>() as f32;
        let others = (0..n).filter(|&j| j != i && valid(j));
        let mut near: Vec<(f32, usize)> = others.map(|j| (cosine(j).clamp(-1.0, 1.0), j)).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (at, (cosine, j)) in near.into_iter().take(k).enumerate() {
            graph.neighbours[i * k + at] = j as u32;
            graph.cosines[i * k + at] = cosine;
        }
    }
    graph
}

fn kernels() -> Vec<Kernel> {
    Kernel::available().map(|k| k.0).filter(|&k| Kernels::new(Some(k), 1).is_ok()).collect()
}

/// The naive sums run in another order, so cosines may differ by a rounding of float32 and neighbours so near to one
/// another may change places; among kernels nothing may differ.
fn check(x: &[f32], dim: usize, k: usize) {
    let truth = naive(x, dim, k, |_| true);
    let mut first: Option<Graph> = None;
    // Without a kernel by name the search may go from one to the next.
    for kernel in kernels().into_iter().map(Some).chain([None]) {
        for threads in [1, 2] {
            let searched = exact(&array(x, dim), &options(k, kernel, threads), &Supervisor::none()).unwrap();
            for (i, (a, b)) in searched.cosines.iter().zip(&truth.cosines).enumerate() {
                assert!((a - b).abs() <= f32::EPSILON, "{kernel:?}: row {}: {a} for {b}", i / k);
            }
            assert_eq!(*first.get_or_insert(searched.clone()), searched, "{kernel:?}, {threads} threads");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 48 }, ..ProptestConfig::default() })]

    /// Blobs from wide to so narrow that bfloat16 cannot tell their rows apart.
    #[test]
    fn every_kernel_finds_the_nearest(
        n in 2usize..400, dim in 1usize..80, blobs in 1usize..5, spread in -4f64..0.5, k in 1usize..40, random_seed in any::<u64>()
    ) {
        check(&data(n, dim, blobs, 10f64.powf(spread), random_seed), dim, k.min(n - 1));
    }

    /// Rows of 4 or 16 columns that are 1 or -1 have a length of 2 or 4, so all is exact: the very same graph, in which
    /// most cosines are there many times.
    #[test]
    fn ties_go_by_row(n in 2usize..300, wide in any::<bool>(), k in 1usize..30, random_seed in any::<u64>()) {
        let dim = if wide { 16 } else { 4 };
        let x: Vec<f32> = (0..n * dim).map(|i| (row_hash(random_seed, i as u64) % 2) as f32 * 2.0 - 1.0).collect();
        let k = k.min(n - 1);
        for kernel in kernels() {
            let searched = exact(&array(&x, dim), &options(k, Some(kernel), 2), &Supervisor::none()).unwrap();
            prop_assert_eq!(&searched, &naive(&x, dim, k, |_| true), "{}", kernel.name());
        }
    }

    /// With all clusters probed the approximate graph is the exact one; with fewer, what is found is right: true
    /// cosines, of rows in the probed clusters, at least k of them.
    #[test]
    fn clusters_find_what_they_hold(n in 20usize..200, dim in 1usize..20, n_probe in 1usize..6, random_seed in any::<u64>()) {
        let (x, k) = (data(n, dim, 5, 0.2, random_seed), 4);
        let labels: Vec<u32> = (0..n).map(|i| (row_hash(random_seed, i as u64) % 5) as u32).collect();
        let centroids = data(5, dim, 5, 0.0, random_seed);
        let clusters = |n_probe| Clusters { labels: &labels, centroids: &centroids, n_probe };
        let source = array(&x, dim);
        let truth = exact(&source, &options(k, None, 2), &Supervisor::none()).unwrap();
        let (all, recall) = approximate(&source, &clusters(5), &options(k, None, 2), 50, 1, &Supervisor::none()).unwrap();
        prop_assert_eq!((&all, recall), (&truth, vec![1.0; k]));
        let (some, recall) = approximate(&source, &clusters(n_probe), &options(k, None, 1), n, 1, &Supervisor::none()).unwrap();
        for (first, recall) in (1..=k).zip(recall) {
            let lines = some.cosines.chunks(k).zip(truth.cosines.chunks(k));
            let reached = lines.map(|(a, b)| a[..first].iter().filter(|&&c| c >= b[first - 1]).count());
            prop_assert_eq!(recall, reached.sum::<usize>() as f64 / (n * first) as f64);
        }
        prop_assert!(some.neighbours.iter().all(|&row| row != NONE));
        prop_assert!(some.cosines.iter().zip(&truth.cosines).all(|(a, b)| a <= b));
    }
}

#[test]
fn a_store_in_shards_leaves_invalid_rows_out() {
    let (n, dim, k) = (50, 8, 3);
    let directory = tempfile::tempdir().unwrap();
    // Whole numbers, which float16 holds.
    let x: Vec<f32> = (0..n * dim).map(|i| (row_hash(5, i as u64) % 9) as f32 - 4.0).collect();
    let valid: Vec<u8> = (0..n).map(|i| u8::from(i % 7 != 2)).collect();
    let store = Store::create(directory.path(), dim, Dtype::F16, 16, false).unwrap();
    for (index, (x, valid)) in x.chunks(16 * dim).zip(valid.chunks(16)).enumerate() {
        let tensor = TensorData { name: "valid", dtype: Dtype::U8, shape: vec![valid.len()], bytes: valid };
        store.write_shard(index, Rows::new(Dtype::F32, dim, cast_slice(x), &[]).unwrap(), &[tensor]).unwrap();
    }
    let source = Source::store(&store).unwrap();
    let truth = naive(&x, dim, k, |i| valid[i] != 0);
    let searched = exact(&source, &options(k, None, 2), &Supervisor::none()).unwrap();
    assert_eq!(searched.neighbours, truth.neighbours);
    for (a, b) in searched.cosines.iter().zip(&truth.cosines) {
        assert!((a - b).abs() <= f32::EPSILON || (a.is_nan() && b.is_nan()));
    }
    let rows = valid_rows(&source, &Supervisor::none()).unwrap();
    for row in [0, 13, 49] {
        let near = nearest_of(&source, row, &rows, |_| true, k, &Supervisor::none()).unwrap();
        let near: Vec<u32> = near.iter().map(|near| near.row).collect();
        assert_eq!(near, searched.neighbours[row as usize * k..][..k]);
        let open = |r: u32| !near[..2].contains(&r);
        let further = nearest_of(&source, row, &rows, open, 1, &Supervisor::none()).unwrap();
        assert_eq!(further[0].row, searched.neighbours[row as usize * k + 2]);
    }
}

/// Rows that are all the same, whose columns float32 cannot hold at unit length: every pair is let in, and ties must
/// still go by row.
#[test]
fn rows_that_are_all_the_same() {
    let x: Vec<f32> = (0..600).flat_map(|_| [0.1, 0.7, -0.3]).collect();
    for kernel in kernels() {
        let searched = exact(&array(&x, 3), &options(2, Some(kernel), 2), &Supervisor::none()).unwrap();
        assert_eq!(searched.neighbours[..6], [1, 2, 0, 2, 0, 1]);
        assert!(searched.neighbours[6..].chunks(2).all(|pair| pair == [0, 1]));
    }
}

/// Columns of +1/4 and -1/4, which every kernel has as they are, up to a scale, beside rows that kernels round: what is
/// taken from the rows alone counts too.
#[test]
fn rows_are_rounded_where_columns_are_not() {
    let (dim, n_columns, n) = (16, 40, 2_000);
    let mut x: Vec<f32> =
        (0..n_columns * dim).map(|i| if row_hash(3, i as u64).is_multiple_of(2) { 0.25 } else { -0.25 }).collect();
    x.extend(data(n, dim, n, 1.0, 4));
    let source = array(&x, dim);
    let rows: Vec<u64> = (0..(n_columns + n) as u64).collect();
    let (columns, queries) = rows.split_at(n_columns);
    let units = gather(&source, &rows, &Supervisor::none()).unwrap();
    let (held, others) = units.split_at(n_columns * dim);
    let best = |x: &[f32]| held.chunks(dim).map(|column| cosine(x, column)).fold(f32::NEG_INFINITY, f32::max);
    let truth: Vec<f32> = others.chunks(dim).map(best).collect();
    for kernel in kernels() {
        let searched = exact_of(&source, queries, columns, &options(1, Some(kernel), 1), &Supervisor::none()).unwrap();
        assert_eq!(searched.cosines, truth, "{}", kernel.name());
    }
}

/// A coarse kernel stays where it tells rows apart, and gives way where it does not.
#[test]
fn the_search_takes_the_kernel_that_the_rows_need() {
    let (n, dim) = (400, 64);
    for (spread, stays) in [(1.0, true), (1e-4, false)] {
        let mut x = data(n, dim, if stays { n } else { 1 }, spread, 8);
        x.chunks_exact_mut(dim).for_each(scale);
        let rows: Vec<u64> = (0..n as u64).collect();
        let kernels = Kernels::new(None, dim).unwrap();
        let last = kernels.list().len() - 1;
        let block = ColumnBlock::new(&kernels, &rows, x.clone(), dim);
        for _ in 0..=last {
            let mut graph = Graph::empty(n, 1);
            block.search(&rows, &x, 1, &mut graph.neighbours, &mut graph.cosines);
        }
        assert_eq!(kernels.current(), if stays { 0 } else { last }, "{:?}", kernels.list());
    }
}

#[test]
fn what_cannot_be_searched_is_told() {
    let x = [1f32, 0.0, 0.0, 1.0, 1.0, f32::NAN];
    let error = |x: &[f32], k| exact(&array(x, 2), &options(k, None, 1), &Supervisor::none()).unwrap_err().to_string();
    assert_eq!(error(&x[..4], 2), "k: expected 1 to 1, because a row has 1 others, got 2");
    assert_eq!(error(&x, 1), "row 2, column 1: expected a finite number, got NaN");
    let scalar = exact(&array(&x[..4], 2), &options(1, Some(Kernel::Scalar), 1), &Supervisor::none());
    assert!(scalar
        .unwrap_err()
        .to_string()
        .starts_with("kernel \"scalar\": neighbours of 2 columns are searched with portable"));
}
