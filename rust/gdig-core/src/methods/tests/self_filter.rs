use super::*;
use crate::methods::self_filter::{self, Picked};

/// Sorts all at every step. Returns the rows, and their difficulties when chosen.
fn plain_penalty(case: &Case, difficulty: &[f32], k: usize, gamma: f64, budget: u64) -> (Vec<i64>, Vec<f32>) {
    let units = case.units;
    let valid: Vec<usize> = (0..units.len()).filter(|&i| (case.valid)(i)).collect();
    let lowest = valid.iter().map(|&i| difficulty[i]).fold(f32::INFINITY, f32::min);
    let mut now: Vec<f64> = difficulty.iter().map(|&d| f64::from(d) - f64::from(lowest)).collect();
    let (mut open, mut rows, mut penalised, mut spent) = (valid, Vec::new(), Vec::new(), 0);
    while !open.is_empty() {
        open.sort_by(|&a, &b| now[b].total_cmp(&now[a]).then(a.cmp(&b)));
        let row = open[0];
        spent += case.cost(row);
        if spent > budget {
            break;
        }
        open.remove(0);
        rows.push(row as i64);
        penalised.push(now[row] as f32);
        let cosine = |other: usize| f64::from(dot(&units[row], &units[other]) as f32);
        open.sort_by(|&a, &b| cosine(b).total_cmp(&cosine(a)).then(a.cmp(&b)));
        for &other in open.iter().take(k) {
            if now[row] > 0.0 && cosine(other) > 0.0 {
                now[other] -= gamma * now[row] * cosine(other).powi(2);
            }
        }
    }
    (rows, penalised)
}

fn chosen(
    source: &Source,
    graph: &Graph,
    difficulty: &[f32],
    k: usize,
    gamma: f64,
    budget: u64,
    tokens: Option<&[u32]>,
) -> Picked {
    let options = self_filter::Options { difficulty, k, gamma, limit: limit(budget, tokens), tokens, n_threads: 2 };
    self_filter::self_filter(source, graph, &options, &Supervisor::none()).unwrap()
}

/// Whole eighths, of both signs, many of them alike.
fn difficulties(n: usize, random_seed: u64) -> Vec<f32> {
    (0..n).map(|i| (row_hash(random_seed ^ 5, i as u64) % 64) as f32 / 8.0 - 4.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 96 }, ..ProptestConfig::default() })]

    /// However few neighbours are stored.
    #[test]
    fn the_penalties_are_the_plain_ones(
        n in 3usize..90, stored in 1usize..30, k in 1usize..12, halves in 0u32..4, budget in 0u64..120, random_seed in any::<u64>()
    ) {
        let x = data(n, random_seed);
        let (source, units, difficulty) = (array(&x), units(&x), difficulties(n, random_seed));
        let graph = graph(&source, stored.min(n - 1));
        let (k, gamma) = (k.min(n - 1), f64::from(halves) / 2.0);
        let case = Case { units: &units, valid: &|_| true, graph: &graph, tokens: None };
        let (expected, penalised) = plain_penalty(&case, &difficulty, k, gamma, budget);
        let picked = chosen(&source, &graph, &difficulty, k, gamma, budget, None);
        prop_assert_eq!(&picked.rows, &expected);
        prop_assert_eq!(&picked.penalised, &penalised);
        // A smaller budget's rows are the beginning of a larger one's; and where zero lies does not matter.
        let smaller = chosen(&source, &graph, &difficulty, k, gamma, budget / 2, None);
        prop_assert_eq!(&smaller.rows[..], &expected[..smaller.rows.len()]);
        let shifted: Vec<f32> = difficulty.iter().map(|d| d - 1024.0).collect();
        prop_assert_eq!(&chosen(&source, &graph, &shifted, k, gamma, budget, None), &picked);
    }
}

/// As published, row 1 (difficulty -1, chosen third) would raise its neighbour's.
#[test]
fn no_penalty_is_a_bonus() {
    let x: Vec<f32> = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
        .iter()
        .flat_map(|pair| (0..DIM).map(move |j| if j < 2 { pair[j] } else { 0.0 }))
        .collect();
    let source = array(&x);
    let picked = chosen(&source, &graph(&source, 3), &[-0.5, -1.0, -3.0, -4.0], 3, 1.0, 4, None);
    assert_eq!(picked.rows, [0, 1, 2, 3]);
    assert_eq!(picked.difficulty, [3.5, 3.0, 1.0, 0.0]);
    assert_eq!(picked.penalised, [3.5, 3.0, -2.0, -3.5]);
}

#[test]
fn invalid_rows_of_a_store_are_never_picked() {
    for random_seed in 0..4 {
        let x = data(60, random_seed);
        let (_directory, store, valid) = store_with_invalid_rows(&x, random_seed);
        let source = Source::store(&store).unwrap();
        let (graph, units) = (graph(&source, 5), units(&x));
        let case = Case { units: &units, valid: &|i| valid[i], graph: &graph, tokens: None };
        let mut difficulty = difficulties(60, random_seed);
        (0..60).filter(|&i| !valid[i]).for_each(|i| difficulty[i] = f32::NAN);
        let picked = chosen(&source, &graph, &difficulty, 4, 1.0, 60, None);
        assert_eq!(picked.rows, plain_penalty(&case, &difficulty, 4, 1.0, 60).0);
    }
}

#[test]
fn what_does_not_fit_together_is_named() {
    let x = data(5, 1);
    let source = array(&x);
    let graph = graph(&source, 2);
    let supervisor = Supervisor::none();
    let message = |difficulty: &[f32], graph: &Graph| {
        let options =
            self_filter::Options { difficulty, k: 1, gamma: 1.0, limit: Limit::Rows(1), tokens: None, n_threads: 1 };
        self_filter::self_filter(&source, graph, &options, &supervisor).unwrap_err().to_string()
    };
    assert_eq!(message(&[0.0; 4], &graph), "difficulty: expected 5 numbers, one for each row, got 4");
    let nan = [0.0, f32::NAN, 0.0, 0.0, 0.0];
    assert_eq!(message(&nan, &graph), "difficulty of row 1: expected a finite number, got NaN");
    let short = Graph { k: 2, neighbours: vec![0; 8], cosines: vec![0.0; 8] };
    assert_eq!(message(&[0.0; 5], &short), "neighbours of 4 rows: expected 5, one line for each row");
    let far = Graph { k: 2, neighbours: vec![7; 10], cosines: vec![0.0; 10] };
    assert_eq!(message(&[0.0; 5], &far), "neighbours of row 0: expected rows below 5, got 7");
}
