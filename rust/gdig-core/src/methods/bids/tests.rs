use bytemuck::cast_slice;
use proptest::prelude::*;

use super::*;
use crate::convert::Rows as Sketches;
use crate::methods::sorted_columns::{chunk_rows, scan};
use crate::store::{Store, TensorData};
use crate::{Dtype, Error};

#[derive(Clone, Debug)]
struct Pool {
    n_seeds: usize,
    influence: Vec<f32>,
    valid: Vec<u8>,
}

impl Pool {
    fn rows(&self) -> Vec<usize> {
        (0..self.valid.len()).filter(|&row| self.valid[row] != 0).collect()
    }

    fn at(&self, row: usize, seed: usize) -> f32 {
        self.influence[row * self.n_seeds + seed]
    }

    fn array(&self) -> Influence<'_> {
        Influence::array(&self.influence, self.n_seeds, Some(&self.valid)).unwrap()
    }

    fn write(&self, directory: &std::path::Path, rows_per_shard: usize) -> Store {
        let store = Store::create(directory, 1, Dtype::F32, rows_per_shard, true).unwrap();
        let numbers = vec![0f32; self.valid.len()];
        for (index, valid) in self.valid.chunks(rows_per_shard).enumerate() {
            let (n, first) = (valid.len(), index * rows_per_shard * self.n_seeds);
            let column = |name, dtype, bytes| TensorData { name, dtype, shape: vec![n], bytes };
            let influence = cast_slice(&self.influence[first..][..n * self.n_seeds]);
            let tensors = [
                TensorData { name: "influence", dtype: Dtype::F32, shape: vec![n, self.n_seeds], bytes: influence },
                column("loss", Dtype::F32, cast_slice(&numbers[..n])),
                column("tokens", Dtype::I32, cast_slice(&numbers[..n])),
                column("valid", Dtype::U8, valid),
            ];
            let sketch = Sketches::new(Dtype::F32, 1, cast_slice(&numbers[..n]), &[]).unwrap();
            store.write_shard(index, sketch, &tensors).unwrap();
        }
        store
    }

    /// Column j standardised, NaN for a row that is not valid. One chunk of rows: sums in the order of the rows.
    fn standardised(&self, j: usize) -> Vec<f64> {
        let column: Vec<f64> = self.rows().iter().map(|&row| f64::from(self.at(row, j))).collect();
        let mean = column.iter().sum::<f64>() / column.len() as f64;
        let squares: f64 = column.iter().map(|x| (x - mean) * (x - mean)).sum();
        let flat = column.iter().all(|&x| x == column[0]);
        let deviation = (squares / (column.len() as f64 - 1.0)).sqrt();
        let mut z = vec![f64::NAN; self.valid.len()];
        self.rows()
            .into_iter()
            .zip(column)
            .for_each(|(row, x)| z[row] = if flat { 0.0 } else { (x - mean) / deviation });
        z
    }

    /// The plain form: every entry is looked at for every pick.
    fn plain(&self, budget: usize) -> Picked {
        let z: Vec<Vec<f64>> = (0..self.n_seeds).map(|j| self.standardised(j)).collect();
        let flat: Vec<bool> = z.iter().map(|z| z.iter().all(|&z| z == 0.0 || z.is_nan())).collect();
        let (mut open, mut sums) = (self.rows(), vec![0f64; self.n_seeds]);
        let mut picked = Picked { flat: flat.iter().filter(|&&flat| flat).count(), ..Picked::default() };
        while picked.rows.len() < budget && !open.is_empty() {
            let taken = picked.rows.len() as f64;
            let mean = |j: usize| if taken == 0.0 { 0.0 } else { sums[j] / taken };
            let speaks = |&j: &usize| !flat[j] || (j == 0 && picked.flat == self.n_seeds);
            let gain = |j: usize, row: usize| z[j][row] - mean(j);
            let mut winners = Vec::new();
            let mut highest = f64::NEG_INFINITY;
            for j in (0..self.n_seeds).filter(speaks) {
                let order = |&a: &usize, &b: &usize| self.at(b, j).partial_cmp(&self.at(a, j)).unwrap().then(a.cmp(&b));
                let row = open.iter().copied().min_by(order).unwrap();
                winners.push((gain(j, row), row, j));
                highest = open.iter().map(|&row| gain(j, row)).fold(highest, f64::max);
            }
            winners.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap().then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
            let (gain, row, j) = winners[0];
            assert_eq!(gain, highest, "the published choice: no entry of all has a larger gain");
            open.retain(|&other| other != row);
            sums.iter_mut().zip(&z).for_each(|(sum, z)| *sum += z[row]);
            picked.rows.push(row as i64);
            picked.seeds.push(j as u32);
            picked.gains.push(gain);
        }
        picked
    }
}

fn pools() -> impl Strategy<Value = Pool> {
    (1usize..40, 1usize..7, any::<bool>()).prop_flat_map(|(n, n_seeds, few)| {
        // Few different values, so that ties are common; or any.
        let some = prop::sample::select(vec![-1.5f32, -0.0, 0.0, 0.25, 0.5, 1e-30, 3.0]);
        let number = if few { some.boxed() } else { (-1e3f32..1e3).boxed() };
        // A column times 0 is one without spread.
        let factors = prop::collection::vec(prop::sample::select(vec![0f32, 1.0, 1.0, 1.0, -2.0]), n_seeds);
        let valid = prop::collection::vec(prop::sample::select(vec![0u8, 1, 1, 1]), n);
        (prop::collection::vec(number, n * n_seeds), factors, valid).prop_map(move |(mut influence, factors, valid)| {
            influence.iter_mut().enumerate().for_each(|(i, x)| *x *= factors[i % n_seeds]);
            Pool { n_seeds, influence, valid }
        })
    })
}

fn options(budget: usize, depth: usize, most_entries: usize, n_threads: usize) -> Options {
    Options { budget, n_threads, depth, most_entries }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn picks_are_those_of_the_plain_form(
        pool in pools(), budget in 0usize..45, depth in 1usize..50, most in 1usize..400, n_threads in 1usize..4,
        rows_per_shard in 1usize..50
    ) {
        let expected = pool.plain(budget);
        let none = Supervisor::none();
        prop_assert_eq!(&bids(&pool.array(), &options(budget, depth, most, n_threads), &none).unwrap(), &expected);
        prop_assert_eq!(&bids(&pool.array(), &Options::new(budget), &none).unwrap(), &expected);
        let directory = tempfile::tempdir().unwrap();
        let store = pool.write(directory.path(), rows_per_shard);
        let sweep = Influence::sweep(&store).unwrap();
        prop_assert_eq!(&bids(&sweep, &options(budget, depth, most, n_threads), &none).unwrap(), &expected);
        // A smaller budget's picks are the first of a larger one's.
        let fewer = bids(&sweep, &options(budget / 2, depth, most, n_threads), &none).unwrap();
        prop_assert_eq!(&fewer.rows[..], &expected.rows[..fewer.rows.len()]);
    }
}

/// Rows of several chunks, from integers of a fixed recurrence.
fn large(n: usize, n_seeds: usize) -> Pool {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let influence = (0..n * n_seeds).map(|_| next() as f32 / (1 << 20) as f32 - 3.0).collect();
    Pool { n_seeds, influence, valid: (0..n).map(|_| u8::from(!next().is_multiple_of(10))).collect() }
}

#[test]
fn moments_of_many_chunks_are_those_of_the_column() {
    let pool = large(150_000, 2);
    assert!(150_000 > 2 * chunk_rows(2));
    let (valid, scanned) = scan(&pool.array(), 1, None, &Supervisor::none()).unwrap();
    assert_eq!(valid, pool.rows().len() as u64);
    for (j, (moments, _)) in scanned.iter().enumerate() {
        let column: Vec<f64> = pool.rows().iter().map(|&row| f64::from(pool.at(row, j))).collect();
        let n = column.len() as f64;
        let mean = column.iter().sum::<f64>() / n;
        let deviation = (column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        // A sum of n numbers of at most 13 in float64 is off by less than n 13 n 2^-53; both ways round alike.
        let bound = 2.0 * 13.0 * n * 2f64.powi(-53);
        let scale = moments.scale();
        assert!((scale.mean - mean).abs() <= bound, "{} {mean}", scale.mean);
        assert!((scale.deviation - deviation).abs() <= 13.0 * bound, "{} {deviation}", scale.deviation);
    }
}

#[test]
fn bits_do_not_depend_on_threads_shards_or_what_is_kept() {
    let pool = large(140_000, 40);
    let none = Supervisor::none();
    let expected = bids(&pool.array(), &options(700, 700, usize::MAX, 1), &none).unwrap();
    assert_eq!(expected.rows.len(), 700);
    let directory = tempfile::tempdir().unwrap();
    for (rows_per_shard, n_threads, depth) in [(999, 3, 8), (70_001, 1, 64)] {
        let store = pool.write(directory.path(), rows_per_shard);
        let options = options(700, depth, 40 * 200, n_threads);
        assert_eq!(bids(&Influence::sweep(&store).unwrap(), &options, &none).unwrap(), expected);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let none = Supervisor::none();
    let mut pool = Pool { n_seeds: 3, influence: vec![1.0; 15], valid: vec![1; 5] };
    pool.influence[10] = f32::NAN;
    pool.influence[13] = f32::INFINITY;
    let message = |pool: &Pool| bids(&pool.array(), &Options::new(2), &none).unwrap_err().to_string();
    assert_eq!(message(&pool), "row 3: influence on seed 1: expected a finite number, got NaN");
    let directory = tempfile::tempdir().unwrap();
    let store = pool.write(directory.path(), 2);
    let error = bids(&Influence::sweep(&store).unwrap(), &Options::new(2), &none).unwrap_err();
    assert!(matches!(error, Error::Store { .. }));
    assert!(error
        .to_string()
        .ends_with("00000001.safetensors: row 3: influence on seed 1: expected a finite number, got NaN"));
    pool.valid[3] = 0;
    assert_eq!(message(&pool), "row 4: influence on seed 1: expected a finite number, got inf");
    pool.valid[4] = 0;
    assert_eq!(bids(&pool.array(), &Options::new(9), &none).unwrap().rows, [0, 1, 2], "no more are valid");
    assert!(Influence::array(&pool.influence, 4, None).is_err());
    assert!(Influence::array(&pool.influence, 0, None).is_err());
    assert!(Influence::array(&pool.influence, 3, Some(&[1])).is_err());
    let store = Store::create(&directory.path().join("empty"), 1, Dtype::F32, 2, false).unwrap();
    assert!(Influence::sweep(&store).err().unwrap().to_string().contains("at least one of each"));
}
