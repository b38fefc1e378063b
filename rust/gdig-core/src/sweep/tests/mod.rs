mod judges;

use bytemuck::cast_slice;
use proptest::prelude::*;

use super::*;
use crate::convert::Rows;
use crate::interrupt::Supervisor;
use crate::kmeans::{LabelFiles, LabelRows, INVALID};
use crate::resample::{resample, Arrays, Column, Labels, Priority, Quotas};
use crate::store::{shard_name, write, Store, TensorData};
use crate::{Dtype, Limit};

/// A sweep in memory.
#[derive(Clone, Debug)]
struct Pool {
    n_seeds: usize,
    influence: Vec<f32>,
    loss: Vec<f32>,
    tokens: Vec<i32>,
    valid: Vec<u8>,
    labels: Vec<u32>,
}

impl Pool {
    fn votes(&self, row: usize) -> usize {
        self.influence[row * self.n_seeds..][..self.n_seeds].iter().filter(|&&x| x > 0.0).count()
    }

    fn score(&self, row: usize, rule: Score) -> f32 {
        let influence = self.influence[row * self.n_seeds..][..self.n_seeds].iter().map(|&x| f64::from(x));
        let (n, sum) = (self.n_seeds as f64, influence.clone().sum::<f64>());
        let squares: f64 = influence.map(|x| x * x).sum();
        match rule {
            Score::Mean => (sum / n) as f32,
            Score::Steady if squares == 0.0 => 0.0,
            Score::Steady => (sum / (n * squares).sqrt()) as f32,
        }
    }

    fn rows(&self) -> std::ops::Range<usize> {
        0..self.loss.len()
    }

    fn write(&self, directory: &std::path::Path, rows_per_shard: usize) -> (Store, LabelFiles) {
        let store = Store::create(&directory.join("sweep"), 1, Dtype::F32, rows_per_shard, false).unwrap();
        let to = directory.join("labels");
        std::fs::create_dir_all(&to).unwrap();
        for (index, start) in self.rows().step_by(rows_per_shard).enumerate() {
            let span = start..self.rows().end.min(start + rows_per_shard);
            let n = span.len();
            let column = |name, dtype, bytes| TensorData { name, dtype, shape: vec![n], bytes };
            let influence = &self.influence[start * self.n_seeds..span.end * self.n_seeds];
            let tensors = [
                TensorData {
                    name: "influence",
                    dtype: Dtype::F32,
                    shape: vec![n, self.n_seeds],
                    bytes: cast_slice(influence),
                },
                column("loss", Dtype::F32, cast_slice(&self.loss[span.clone()])),
                column("tokens", Dtype::I32, cast_slice(&self.tokens[span.clone()])),
                column("valid", Dtype::U8, &self.valid[span.clone()]),
            ];
            let sketch = vec![0f32; n];
            store.write_shard(index, Rows::new(Dtype::F32, 1, cast_slice(&sketch), &[]).unwrap(), &tensors).unwrap();
            let distances: Vec<f32> = span.clone().map(|row| row as f32 / 2.0).collect();
            let tensors = [
                column("labels", Dtype::U32, cast_slice(&self.labels[span])),
                column("distances", Dtype::F32, cast_slice(&distances)),
            ];
            write(&to.join(shard_name(index)), &tensors, &[("first_row".into(), start.to_string())].into()).unwrap();
        }
        (store, LabelFiles::open(&to).unwrap())
    }
}

fn pools() -> impl Strategy<Value = Pool> {
    (1usize..40, 1usize..5).prop_flat_map(|(n, n_seeds)| {
        let few = prop::sample::select(vec![-1.5f32, -0.0, 0.0, 0.25, 1e-30, 3.0]);
        let column = move |n| prop::collection::vec(few.clone(), n);
        (
            column(n * n_seeds),
            column(n),
            prop::collection::vec(0i32..9, n),
            prop::collection::vec(0u8..2, n),
            prop::collection::vec(prop::sample::select(vec![0u32, 1, 2, 7, INVALID]), n),
        )
            .prop_map(move |(influence, loss, tokens, valid, labels)| Pool {
                n_seeds,
                influence,
                loss,
                tokens,
                valid,
                labels,
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_that_is_read_is_what_lies_in_memory(
        pool in pools(), rows_per_shard in 1usize..50, least_votes in 0u32..4, budget in 0u64..60, random_seed in any::<u64>(),
        rule in 0usize..3,
        score in prop::sample::select(vec![Score::Mean, Score::Steady])
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (store, labels) = pool.write(directory.path(), rows_per_shard);
        let none = Supervisor::none();
        let valid: Vec<usize> = pool.rows().filter(|&row| pool.valid[row] != 0).collect();

        let judge = Judge::new(score, Voters::Seeds);
        let counted = survey(&store, judge, &none).unwrap();
        prop_assert_eq!((counted.rows, counted.n_seeds), (pool.rows().end, pool.n_seeds));
        prop_assert_eq!(counted.all_tokens, pool.tokens.iter().map(|&t| t as u64).sum::<u64>());
        prop_assert_eq!(counted.score, valid.iter().map(|&row| f64::from(pool.score(row, score))).sum::<f64>());
        let squares = valid.iter().map(|&row| f64::from(pool.score(row, score)).powi(2)).sum::<f64>();
        prop_assert_eq!(counted.score_squares, squares);
        for votes in 0..=pool.n_seeds {
            let of = valid.iter().filter(|&&row| pool.votes(row) == votes);
            prop_assert_eq!(counted.counts[votes], of.clone().count() as u64);
            prop_assert_eq!(counted.tokens[votes], of.map(|&row| pool.tokens[row] as u64).sum::<u64>());
        }

        let limits = [Limit::Rows(budget), Limit::Tokens(budget)];
        for (by, limit) in limits.into_iter().flat_map(|limit| [(By::Score(judge), limit), (By::Loss, limit)]) {
            let tokens = matches!(limit, Limit::Tokens(_));
            let key = |row: usize| if matches!(by, By::Loss) { pool.loss[row] } else { -pool.score(row, score) };
            let mut order = valid.clone();
            order.sort_by(|&a, &b| key(a).partial_cmp(&key(b)).unwrap().then(a.cmp(&b)));
            let mut spent = 0;
            let fits = |&row: &usize| { spent += if tokens { pool.tokens[row] as u64 } else { 1 }; spent <= budget };
            let expected: Vec<i64> = order.into_iter().take_while(fits).map(|row| row as i64).collect();
            prop_assert_eq!(best(&store, by, limit, &none).unwrap(), expected);
        }

        // Drawn from the files as from arrays with the labels of the rows that may be drawn.
        let may = |row: usize| pool.valid[row] != 0 && pool.votes(row) >= least_votes as usize;
        let masked = |labels: &[u32]| -> Vec<u32> { pool.rows().map(|row| if may(row) { labels[row] } else { INVALID }).collect() };
        let scores: Vec<f32> = pool.rows().map(|row| pool.score(row, score)).collect();
        let quotas = Quotas::ALL[rule].0;
        for (with_labels, by_score) in [(true, false), (true, true), (false, false)] {
            let in_memory = if with_labels { masked(&pool.labels) } else { masked(&vec![0; pool.rows().end]) };
            let priority = if by_score { Priority::Values(Column::F32(&scores)) } else { Priority::Hash };
            let arrays = Arrays::new(Labels::U32(&in_memory), priority, Some(Column::I32(&pool.tokens)), random_seed).unwrap();
            let labels = with_labels.then_some(&labels);
            let files = Drawable {
                store: &store,
                labels,
                judge,
                least_votes,
                order: if by_score { Order::Score } else { Order::Hash },
                random_seed,
                len: pool.rows().end,
                supervisor: &none,
            };
            let drawn = resample(&files, quotas, Limit::Rows(budget), random_seed, &none).unwrap();
            prop_assert_eq!(&drawn, &resample(&arrays, quotas, Limit::Rows(budget), random_seed, &none).unwrap());
            prop_assert_eq!(
                resample(&files, quotas, Limit::Tokens(budget), random_seed, &none).unwrap(),
                resample(&arrays, quotas, Limit::Tokens(budget), random_seed, &none).unwrap()
            );
            let values = columns(&store, labels, &drawn, judge, &none).unwrap();
            for (i, row) in drawn.iter().map(|&row| row as usize).enumerate() {
                prop_assert_eq!((values.votes[i] as usize, values.score[i]), (pool.votes(row), pool.score(row, score)));
                prop_assert_eq!((values.loss[i], values.tokens[i]), (pool.loss[row], i64::from(pool.tokens[row])));
                if with_labels {
                    prop_assert_eq!((values.label[i], values.distance[i]), (pool.labels[row], row as f32 / 2.0));
                }
            }
        }

        let mut counts = [0u64; 8];
        pool.labels.iter().filter(|&&label| label != INVALID).for_each(|&label| counts[label as usize] += 1);
        let longest = counts.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        prop_assert_eq!(labels.counts(&none).unwrap(), &counts[..longest]);
        let arrays = Arrays::new(Labels::U32(&pool.labels), Priority::Hash, None, random_seed).unwrap();
        let files = LabelRows { files: &labels, random_seed, supervisor: &none };
        prop_assert_eq!(
            resample(&files, quotas, Limit::Rows(budget), random_seed, &none).unwrap(),
            resample(&arrays, quotas, Limit::Rows(budget), random_seed, &none).unwrap()
        );
    }
}

fn pool(n: usize) -> Pool {
    Pool {
        n_seeds: 2,
        influence: vec![1.0; 2 * n],
        loss: vec![1.0; n],
        tokens: vec![3; n],
        valid: vec![1; n],
        labels: vec![0; n],
    }
}

#[test]
fn what_is_wrong_is_named() {
    let judge = Judge::new(Score::Steady, Voters::Seeds);
    let none = Supervisor::none();
    let message = |pool: &Pool| {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = pool.write(directory.path(), 2);
        survey(&store, judge, &none)
            .map(drop)
            .and(best(&store, By::Loss, Limit::Rows(9), &none).map(drop))
            .unwrap_err()
            .to_string()
    };
    let mut bad = pool(5);
    bad.influence[7] = f32::NAN;
    let text = message(&bad);
    assert!(text.contains("00000001.safetensors") && text.contains("row 3: influence on seed 1"), "{text}");
    let mut bad = pool(5);
    bad.tokens[4] = -1;
    assert!(message(&bad).contains("row 4: tokens: expected at least 0, got -1"));
    let mut bad = pool(5);
    bad.loss[2] = f32::NAN;
    assert!(message(&bad).contains("row 2: loss"));
    // Of a row that is not valid nothing is asked but its tokens.
    bad.valid[2] = 0;
    bad.influence[4] = f32::INFINITY;
    let directory = tempfile::tempdir().unwrap();
    let (store, labels) = bad.write(directory.path(), 2);
    assert_eq!(survey(&store, judge, &none).unwrap().counts, [0, 0, 4]);
    assert!(columns(&store, Some(&labels), &[5], judge, &none)
        .unwrap_err()
        .to_string()
        .contains("expected 0 to 4, got 5"));
    assert!(columns(&store, None, &[-1], judge, &none).is_err());

    let mut far = pool(5);
    far.labels[4] = 1 << 28;
    let directory_of_far = tempfile::tempdir().unwrap();
    let (_, labels_of_far) = far.write(directory_of_far.path(), 2);
    let text = labels_of_far.counts(&none).unwrap_err().to_string();
    assert!(
        text.contains("00000002.safetensors") && text.contains("row 4: label: expected 0 to 1048575, got 268435456"),
        "{text}"
    );

    let path = directory.path().join("labels").join(shard_name(1));
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(labels.counts(&none).unwrap_err().to_string().contains("00000001.safetensors"));
    std::fs::remove_file(&path).unwrap();
    let gap = LabelFiles::open(&directory.path().join("labels")).err().unwrap().to_string();
    assert!(gap.contains("00000001.safetensors"), "{gap}");
    assert!(LabelFiles::open(directory.path()).is_err());
}
