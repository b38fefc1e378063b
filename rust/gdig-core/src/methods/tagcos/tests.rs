use std::collections::BTreeMap;
use std::path::Path;

use bytemuck::cast_slice;
use proptest::prelude::*;

use super::factor::Factor;
use super::*;
use crate::convert::Rows;
use crate::kmeans::INVALID;
use crate::store::{shard_name, write, Store, TensorData};
use crate::Dtype;

/// Solve a small dense system by elimination with pivots.
fn dense(matrix: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let n = b.len();
    let mut rows: Vec<Vec<f64>> = matrix.iter().zip(b).map(|(row, &b)| [&row[..], &[b]].concat()).collect();
    for i in 0..n {
        let pivot = (i..n).max_by(|&a, &b| rows[a][i].abs().total_cmp(&rows[b][i].abs())).unwrap();
        rows.swap(i, pivot);
        for other in (0..n).filter(|&other| other != i) {
            let factor = rows[other][i] / rows[i][i];
            let row = rows[i].clone();
            rows[other].iter_mut().zip(row).for_each(|(x, y)| *x -= factor * y);
        }
    }
    (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn gram(rows: &[&[f32]], ridge: f64) -> Vec<Vec<f64>> {
    let entry = |i: usize, j: usize| dot(rows[i], rows[j]) + if i == j { ridge } else { 0.0 };
    (0..rows.len()).map(|i| (0..rows.len()).map(|j| entry(i, j)).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The eigenvalues lie between ridge = 1 and 1 + 12 columns of numbers up to 4: condition below 200, so that both
    /// solutions are within 200 x 12^2 x 2^-53 = 3e-12 of the true one, which is no longer than |b| / 1 = 35.
    #[test]
    fn a_factor_that_grows_and_shrinks_solves_as_a_dense_one(
        x in prop::collection::vec(-2f32..2.0, 12 * 3), b in prop::collection::vec(-10f64..10.0, 12),
        steps in prop::collection::vec((any::<bool>(), 0usize..12), 1..40)
    ) {
        let (mut factor, mut present): (Factor, Vec<usize>) = (Factor::default(), Vec::new());
        let row = |i: usize| &x[3 * i..][..3];
        for (grow, i) in steps {
            match present.iter().position(|&other| other == i) {
                None if grow => {
                    let beside: Vec<f64> = present.iter().map(|&other| dot(row(i), row(other))).collect();
                    prop_assert!(factor.push(&beside, dot(row(i), row(i)) + 1.0));
                    present.push(i);
                }
                Some(place) if !grow => {
                    factor.remove(place);
                    present.remove(place);
                }
                _ => {}
            }
            prop_assert_eq!(factor.len(), present.len());
            let rows: Vec<&[f32]> = present.iter().map(|&i| row(i)).collect();
            let expected = dense(&gram(&rows, 1.0), &b[..present.len()]);
            for (x, y) in factor.solve(&b[..present.len()]).iter().zip(expected) {
                prop_assert!((x - y).abs() <= 35.0 * 3e-12, "{} {}", x, y);
            }
        }
        // A row that is there already, without a ridge of its own.
        if let Some(&i) = present.first() {
            let beside: Vec<f64> = present.iter().map(|&other| dot(row(i), row(other)) + if other == i { 1.0 } else { 0.0 }).collect();
            prop_assert!(!factor.push(&beside, dot(row(i), row(i)) + 1.0));
        }
    }
}

/// Rows of two clusters and some of none.
#[derive(Clone, Debug)]
struct Pool {
    dim: usize,
    x: Vec<f32>,
    labels: Vec<u32>,
}

impl Pool {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.x[i * self.dim..][..self.dim]
    }

    fn write(&self, directory: &Path, rows_per_shard: usize) -> (Store, LabelFiles) {
        let store = Store::create(&directory.join("sweep"), self.dim, Dtype::F32, rows_per_shard, true).unwrap();
        let to = directory.join(format!("labels-{rows_per_shard}"));
        std::fs::create_dir_all(&to).unwrap();
        for (index, labels) in self.labels.chunks(rows_per_shard).enumerate() {
            let (n, first) = (labels.len(), index * rows_per_shard);
            let rows = cast_slice(&self.x[first * self.dim..][..n * self.dim]);
            store.write_shard(index, Rows::new(Dtype::F32, self.dim, rows, &[]).unwrap(), &[]).unwrap();
            let labels = TensorData { name: "labels", dtype: Dtype::U32, shape: vec![n], bytes: cast_slice(labels) };
            let metadata = BTreeMap::from([("first_row".to_owned(), first.to_string())]);
            write(&to.join(shard_name(index)), &[labels], &metadata).unwrap();
        }
        (store, LabelFiles::open(&to).unwrap())
    }

    fn members(&self, label: u32) -> Vec<usize> {
        (0..self.len()).filter(|&i| self.labels[i] == label).collect()
    }

    fn mean(&self, members: &[usize]) -> Vec<f64> {
        let sum = |j: usize| members.iter().map(|&i| f64::from(self.row(i)[j])).sum::<f64>();
        (0..self.dim).map(|j| sum(j) / members.len() as f64).collect()
    }
}

/// Least squares with a ridge and weights that are not negative: of all sets of rows with positive weights, the best.
fn best_weights(rows: &[&[f32]], aims: &[f64], ridge: f64) -> Vec<f64> {
    let mut best = (0.0, vec![0.0; rows.len()]);
    for set in 1usize..1 << rows.len() {
        let of: Vec<usize> = (0..rows.len()).filter(|&i| set >> i & 1 == 1).collect();
        let chosen: Vec<&[f32]> = of.iter().map(|&i| rows[i]).collect();
        let aims: Vec<f64> = of.iter().map(|&i| aims[i]).collect();
        let weights = dense(&gram(&chosen, ridge), &aims);
        // At the best weights of a set the objective is |mean|^2 - aims . weights.
        let value = -aims.iter().zip(&weights).map(|(a, w)| a * w).sum::<f64>();
        if weights.iter().all(|&w| w > 0.0) && value < best.0 {
            best = (value, vec![0.0; rows.len()]);
            of.iter().zip(weights).for_each(|(&i, w)| best.1[i] = w);
        }
    }
    best.1
}

fn pools() -> impl Strategy<Value = Pool> {
    (2usize..14, 1usize..5).prop_flat_map(|(n, dim)| {
        let label = prop::sample::select(vec![3u32, 3, 3, 8, INVALID]);
        let x = prop::collection::vec(-2f32..2.0, n * dim);
        (x, prop::collection::vec(label, n)).prop_map(move |(x, labels)| Pool { dim, x, labels })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// A row that the mask skips is as one without a label.
    #[test]
    fn a_masked_row_has_no_label(pool in pools(), budget in 0u64..15, bits in prop::collection::vec(any::<bool>(), 14)) {
        let directory = tempfile::tempdir().unwrap();
        let (store, labels) = pool.write(&directory.path().join("all"), 5);
        let masked = store.masked((0..pool.len()).map(|i| u8::from(bits[i])).collect());
        let mut fewer = pool.clone();
        (0..pool.len()).filter(|&i| !bits[i]).for_each(|i| fewer.labels[i] = INVALID);
        let (plain, of_fewer) = fewer.write(&directory.path().join("fewer"), 5);
        let (options, none) = (Options::new(budget, 5, false), Supervisor::none());
        let picked = tagcos(&Source::store(&masked).unwrap(), &labels, &options, &none).unwrap();
        prop_assert!(picked.rows.iter().all(|&row| bits[row as usize]));
        prop_assert_eq!(picked, tagcos(&Source::store(&plain).unwrap(), &of_fewer, &options, &none).unwrap());
        let short = store.masked(vec![1; pool.len() - 1]);
        prop_assert!(tagcos(&Source::store(&short).unwrap(), &labels, &options, &none).is_err());
    }

    /// Every step against the definition: the row with the largest product with the residual of the best weights.
    ///
    /// The ridge is a tenth of the mean squared length, so the condition is below 10 x 7 + 1, and weights are below
    /// |mean| sqrt(7 / ridge) < 60: both ways to find them err by less than 71 x 7^2 x 2^-53 x 60 = 3e-11, products
    /// with the residual by 16 times 7 of that: 3e-9.
    #[test]
    fn each_step_is_the_best_one(pool in pools(), budget in 0u64..8, rows_per_shard in 1usize..15) {
        let directory = tempfile::tempdir().unwrap();
        let (store, labels) = pool.write(directory.path(), rows_per_shard);
        let (source, none) = (Source::store(&store).unwrap(), Supervisor::none());
        let matching = Matching { ridge: 0.1, tolerance: 1e-6, most_weights: 100 };
        let options = Options { matching, ..Options::new(budget, 5, false) };
        let picked = tagcos(&source, &labels, &options, &none).unwrap();
        let labelled = pool.labels.iter().filter(|&&label| label != INVALID).count();
        prop_assert_eq!(picked.rows.len(), labelled.min(budget as usize));
        for label in [3, 8] {
            let members = pool.members(label);
            let here = |&i: &usize| pool.labels[picked.rows[i] as usize] == label;
            let taken: Vec<usize> = (0..picked.rows.len()).filter(here).collect();
            let rows: Vec<usize> = taken.iter().map(|&i| picked.rows[i] as usize).collect();
            let share = members.len() as f64 * budget as f64 / labelled.max(1) as f64;
            prop_assert!((rows.len() as f64 - share.min(members.len() as f64)).abs() <= 1.0, "in proportion");
            if members.is_empty() { continue; }
            let mean = pool.mean(&members);
            let squared = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
            let ridge = 0.1 * members.iter().map(|&i| dot(pool.row(i), pool.row(i))).sum::<f64>() / members.len() as f64;
            let product = |i: usize, x: &[f64]| pool.row(i).iter().zip(x).map(|(&a, b)| f64::from(a) * b).sum::<f64>();
            let matched = taken.iter().take_while(|&&i| picked.matched[i]).count();
            for step in 0..=matched {
                let chosen: Vec<&[f32]> = rows[..step].iter().map(|&i| pool.row(i)).collect();
                let aims: Vec<f64> = rows[..step].iter().map(|&i| product(i, &mean)).collect();
                let weights = best_weights(&chosen, &aims, ridge);
                let mut residual = mean.clone();
                for (row, weight) in chosen.iter().zip(&weights) {
                    residual.iter_mut().zip(*row).for_each(|(rest, &x)| *rest -= weight * f64::from(x));
                }
                let open = members.iter().filter(|&i| !rows[..step].contains(i));
                let most = open.clone().map(|&i| product(i, &residual)).fold(f64::NEG_INFINITY, f64::max);
                if step < matched {
                    prop_assert!(product(rows[step], &residual) >= most - 3e-9);
                    continue;
                }
                for (&i, weight) in taken.iter().zip(weights) {
                    prop_assert!((picked.weights[i] - weight).abs() <= 3e-11);
                }
                if rows.len() > matched {
                    let used_up = squared(&residual).sqrt() <= 1e-6 * squared(&mean).sqrt() + 3e-9;
                    prop_assert!(used_up || most <= 3e-9, "the pursuit ended too early");
                }
            }
            // The rest are the nearest to the mean, in order.
            let apart = |i: usize| squared(&pool.row(i).iter().zip(&mean).map(|(&a, b)| f64::from(a) - b).collect::<Vec<_>>());
            let nearest = &rows[matched..];
            prop_assert!(nearest.windows(2).all(|pair| apart(pair[0]) <= apart(pair[1]) + 1e-12));
            let others = members.iter().filter(|i| !rows.contains(i));
            if let Some(&last) = nearest.last() {
                prop_assert!(others.into_iter().all(|&i| apart(last) <= apart(i) + 1e-12));
            }
            prop_assert!(taken[matched..].iter().all(|&i| !picked.matched[i] && picked.weights[i] == 0.0));
        }
        // Rows in memory or read in each step, clusters at once or one by one, threads and shards: the same bits.
        for (held_bytes, listed_rows, n_threads, rows_per_shard) in [(0, u64::MAX, 1, 3), (64, 1, 3, 100)] {
            let (store, labels) = pool.write(directory.path(), rows_per_shard);
            let options = Options { held_bytes, listed_rows, n_threads, matching, ..Options::new(budget, 5, false) };
            prop_assert_eq!(&tagcos(&Source::store(&store).unwrap(), &labels, &options, &none).unwrap(), &picked);
        }
    }
}

fn alone(pool: &Pool, options: &Options) -> Result<Picked> {
    let directory = tempfile::tempdir().unwrap();
    let (store, labels) = pool.write(directory.path(), 100);
    tagcos(&Source::store(&store).unwrap(), &labels, options, &Supervisor::none())
}

#[test]
fn a_weight_that_would_be_negative_is_none_and_its_row_stays() {
    // Towards (1, 0). The longest row comes first and the second beside it: with both the first would need -0.6. The
    // others and the second make the mean exactly, a (2.9, 1.45) + b (0.61, -0.445).
    let x = [vec![3.0, 3.0, 2.9, 1.45], [0.61, -0.445].repeat(10)].concat();
    let pool = Pool { dim: 2, x, labels: vec![0; 12] };
    let matching = Matching { ridge: 0.0, tolerance: 1e-6, most_weights: 9 };
    let picked = alone(&pool, &Options { matching, ..Options::new(4, 0, false) }).unwrap();
    assert_eq!((&picked.rows[..3], &picked.matched[..]), (&[0, 1, 2][..], &[true, true, true, false][..]));
    let a = 1.0 / (2.9 + 0.61 * 1.45 / 0.445);
    // The numbers above are rounded to float32: six of them, each off by 2^-24 of itself.
    let expected = [0.0, a, a * 1.45 / 0.445];
    assert!(picked.weights.iter().zip(expected).all(|(weight, expected)| (weight - expected).abs() < 1e-6));
    assert_eq!(picked.weights[0], 0.0);
    assert!(picked.residual < 1e-6 && picked.ended_early == 1);
}

#[test]
fn a_cluster_whose_mean_is_zero_gives_the_nearest_to_it() {
    let pool = Pool { dim: 1, x: vec![2.0, -2.0, 1.0, -1.0], labels: vec![0; 4] };
    let picked = alone(&pool, &Options::new(3, 0, false)).unwrap();
    assert_eq!(picked.rows, [2, 3, 0]);
    assert_eq!((picked.matched, picked.ended_early, picked.residual), (vec![false; 3], 1, 0.0));
}

#[test]
fn the_factor_is_as_large_as_allowed() {
    let x: Vec<f32> = (0..36).map(|i| if i % 7 == 0 { 1.0 } else { 0.0 }).collect();
    let pool = Pool { dim: 6, x, labels: vec![0; 6] };
    let matching = Matching { ridge: 1e-3, tolerance: 1e-9, most_weights: 2 };
    let picked = alone(&pool, &Options { matching, ..Options::new(6, 0, true) }).unwrap();
    assert_eq!(picked.rows, [0, 1, 2, 3, 4, 5], "ties go to the lower row");
    assert_eq!(picked.matched, [true, true, false, false, false, false]);
    let other = Pool { dim: 6, x: pool.x[6..].to_vec(), labels: vec![0; 5] };
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = pool.write(&directory.path().join("a"), 9);
    let (_, labels) = other.write(&directory.path().join("b"), 9);
    let options = Options::new(1, 0, true);
    let error = tagcos(&Source::store(&store).unwrap(), &labels, &options, &Supervisor::none()).unwrap_err();
    assert_eq!(error.to_string(), "labels of 5 rows: expected 6, one for each row");
}
