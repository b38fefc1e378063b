//! Votes and scores that are relative to the pool, against plain forms.

use super::*;

/// The influence of row i on seed j.
fn at(pool: &Pool, row: usize, seed: usize) -> f64 {
    f64::from(pool.influence[row * pool.n_seeds + seed])
}

fn valid(pool: &Pool) -> Vec<usize> {
    pool.rows().filter(|&row| pool.valid[row] != 0).collect()
}

/// Each voter's value of a row.
fn values(pool: &Pool, row: usize, tasks: Option<&[i64]>) -> Vec<f64> {
    match tasks {
        None => (0..pool.n_seeds).map(|seed| at(pool, row, seed)).collect(),
        Some(tasks) => (0..=*tasks.iter().max().unwrap())
            .map(|task| (0..pool.n_seeds).filter(|&j| tasks[j] == task).map(|j| at(pool, row, j)).sum())
            .collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn means_cuts_votes_and_scores_are_those_of_the_plain_forms(
        pool in pools(), rows_per_shard in 1usize..50, by_task in any::<bool>(), relative in any::<bool>(),
        score in prop::sample::select(vec![Score::Mean, Score::Steady]), least_votes in 0u32..4
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (store, labels) = pool.write(directory.path(), rows_per_shard);
        let none = Supervisor::none();
        let (rows, n) = (valid(&pool), pool.n_seeds);

        let means = seed_means(&store, &none).unwrap();
        let mean = |j: usize| rows.iter().map(|&row| at(&pool, row, j)).sum::<f64>() / rows.len().max(1) as f64;
        prop_assert_eq!(&means, &(0..n).map(mean).collect::<Vec<_>>());

        // The first seed and the last one are of one task.
        let of_seed: Vec<i64> = (0..n as i64).map(|j| if j + 1 == n as i64 { 0 } else { j }).collect();
        let tasks = Tasks::new(&of_seed).unwrap();
        let (voters, of_seed) = match by_task {
            true => (Voters::Tasks(&tasks), Some(&of_seed[..])),
            false => (Voters::Seeds, None),
        };
        let (baselines, cuts) = if relative { (means.clone(), vec![0.5; voters.count(n)]) } else { (vec![], vec![]) };
        let judge = Judge { score, voters, baselines: &baselines, cuts: &cuts };
        let votes = |row: usize| {
            let cut = |voter: usize| *cuts.get(voter).unwrap_or(&0.0);
            values(&pool, row, of_seed).iter().enumerate().filter(|&(voter, &value)| value > cut(voter)).count()
        };
        let scored = |row: usize| {
            let x: Vec<f64> = (0..n).map(|j| at(&pool, row, j) - baselines.get(j).unwrap_or(&0.0)).collect();
            let (sum, squares) = (x.iter().sum::<f64>(), x.iter().map(|x| x * x).sum::<f64>());
            match score {
                Score::Mean => (sum / n as f64) as f32,
                Score::Steady if sum == 0.0 => 0.0,
                Score::Steady => (sum / (n as f64 * squares).sqrt()) as f32,
            }
        };
        let counted = survey(&store, judge, &none).unwrap();
        for k in 0..=voters.count(n) {
            prop_assert_eq!(counted.counts[k], rows.iter().filter(|&&row| votes(row) == k).count() as u64);
        }
        let all: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let read = columns(&store, None, &all, judge, &none).unwrap();
        prop_assert_eq!(read.votes, rows.iter().map(|&row| votes(row) as u32).collect::<Vec<_>>());
        prop_assert_eq!(&read.score, &rows.iter().map(|&row| scored(row)).collect::<Vec<_>>());

        // Draws take the rows of enough votes.
        let files = Drawable {
            store: &store,
            labels: Some(&labels),
            judge,
            least_votes,
            order: Order::Hash,
            random_seed: 1,
            len: pool.rows().end,
            supervisor: &none,
        };
        let mut drawn = resample(&files, Quotas::Equal, Limit::Rows(1000), 1, &none).unwrap();
        drawn.sort_unstable();
        let enough = |row: usize| votes(row) >= least_votes as usize;
        let may = |row: &usize| pool.labels[*row] != INVALID && enough(*row);
        // With noise, one cluster gives the rows of the highest sums.
        let noisy = Drawable { labels: None, order: Order::Gumbel { scale: 3.0 }, ..files };
        let taken = resample(&noisy, Quotas::Equal, Limit::Rows(7), 1, &none).unwrap();
        let hash = |row: usize| crate::hash::row_hash(crate::hash::derive(1, "rows"), row as u64);
        let sum = |row: usize| f64::from(scored(row)) * 3.0 - (-crate::hash::unit(hash(row)).ln()).ln();
        let mut all: Vec<usize> = rows.iter().copied().filter(|&row| enough(row)).collect();
        all.sort_by(|&a, &b| sum(b).total_cmp(&sum(a)).then(a.cmp(&b)));
        prop_assert_eq!(taken, all.iter().take(7).map(|&row| row as i64).collect::<Vec<_>>());
        prop_assert_eq!(drawn, rows.iter().copied().filter(may).map(|row| row as i64).collect::<Vec<_>>());
    }
}

/// Three spans of rows: what is summed span by span is what the whole column says.
#[test]
fn means_of_several_spans_depend_on_no_thread_or_shard() {
    let n = 2 * SPAN + 999;
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 20) as f32 - 8.0
    };
    let influence: Vec<f32> = (0..2 * n).map(|_| next()).collect();
    let pool = Pool { influence, ..super::pool(n) };
    let none = Supervisor::none();
    let mut read = Vec::new();
    for rows_per_shard in [999, SPAN, 3 * SPAN] {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = pool.write(directory.path(), rows_per_shard);
        read.push(seed_means(&store, &none).unwrap());
    }
    assert!(read.iter().all(|values| values == &read[0]));
    for (j, mean) in read[0].iter().enumerate() {
        let column: Vec<f64> = pool.rows().map(|row| at(&pool, row, j)).collect();
        let sums = column.chunks(SPAN).map(|span| span.iter().sum::<f64>());
        assert_eq!(*mean, sums.sum::<f64>() / n as f64);
    }
}

#[test]
fn what_does_not_fit_the_seeds_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = super::pool(5).write(directory.path(), 2);
    let none = Supervisor::none();
    let judge = Judge::new(Score::Mean, Voters::Seeds);
    let message = |judge: Judge| survey(&store, judge, &none).unwrap_err().to_string();
    assert!(message(Judge { baselines: &[0.5], ..judge }).contains("expected 1 seeds, one for each baseline, got 2"));
    assert!(message(Judge { cuts: &[0.5; 3], ..judge }).contains("expected 3 voters, one for each cut, got 2"));
    let mut bad = super::pool(5);
    bad.influence[7] = f32::NAN;
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = bad.write(directory.path(), 2);
    let expected = "row 3: influence on seed 1: expected a finite number, got NaN";
    assert!(seed_means(&store, &none).unwrap_err().to_string().ends_with(expected));
}
