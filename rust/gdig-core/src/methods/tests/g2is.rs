use super::*;
use crate::methods::g2is::{self, shares, Picked};

/// Two directions of unit length, all of whose columns are a quarter, or a half of four.
fn directions(random_seed: u64) -> Vec<f64> {
    let first = (0..DIM).map(|j| if row_hash(random_seed, j as u64).is_multiple_of(6) { -0.25 } else { 0.25 });
    let second = (0..DIM).map(|j| if j % 4 == random_seed as usize % 4 { 0.5 } else { 0.0 });
    first.chain(second).collect()
}

/// Everything from the start at each step. Returns (row, direction), and which walks have ended.
fn plain_walk(case: &Case, directions: &[f64], weights: &[f64], budget: u64) -> (Vec<(i64, u32)>, Vec<bool>) {
    let Case { units, graph, .. } = case;
    let n = units.len();
    let v = weights.len();
    let (mut taken, mut sets, mut order) = (vec![false; n], vec![Vec::<usize>::new(); v], Vec::new());
    let (mut ended, mut share, mut remaining) = (vec![false; v], vec![0u64; v], budget);
    while remaining > 0 && (0..v).any(|d| !ended[d] && weights[d] > 0.0) {
        let weights: Vec<f64> = (0..v).map(|d| if ended[d] { 0.0 } else { weights[d] }).collect();
        shares(remaining, &weights).iter().enumerate().for_each(|(d, more)| share[d] += more);
        let before = ended.clone();
        for d in 0..v {
            let direction = &directions[d * DIM..][..DIM];
            while !ended[d] && share[d] > 0 {
                let set = &sets[d];
                let sum_of = |rows: &[usize]| -> Vec<f64> {
                    (0..DIM).map(|j| rows.iter().map(|&r| units[r][j]).sum()).collect()
                };
                let along = |rows: &[usize]| {
                    let sum = sum_of(rows);
                    dot(&sum, direction) / dot(&sum, &sum).sqrt()
                };
                let fits = |row: usize| {
                    if !(case.valid)(row) || taken[row] || units[row].iter().all(|&x| x == 0.0) {
                        return false;
                    }
                    let more: Vec<usize> = set.iter().copied().chain([row]).collect();
                    match set.is_empty() {
                        true => dot(&units[row], direction) > 0.0,
                        false => {
                            set.iter().all(|&r| dot(&units[r], &units[row]) >= 0.0) && along(&more) >= 0.8 * along(set)
                        }
                    }
                };
                let mut by_direction: Vec<usize> = (0..n).collect();
                by_direction
                    .sort_by(|&a, &b| dot(&units[b], direction).total_cmp(&dot(&units[a], direction)).then(a.cmp(&b)));
                let near = set.last().map_or(&[][..], |&last| &graph.neighbours[last * graph.k..][..graph.k]);
                let near = near.iter().filter(|&&row| row != NONE).map(|&row| row as usize);
                match near.chain(by_direction).find(|&row| fits(row)) {
                    None => ended[d] = true,
                    Some(row) if case.cost(row) > share[d] => break,
                    Some(row) => {
                        share[d] -= case.cost(row);
                        taken[row] = true;
                        sets[d].push(row);
                        order.push((row as i64, d as u32));
                    }
                }
            }
        }
        if ended == before {
            break;
        }
        remaining = (0..v).filter(|&d| ended[d]).map(|d| std::mem::take(&mut share[d])).sum();
    }
    (order, ended)
}

fn walked(
    source: &Source,
    graph: &Graph,
    directions: &[f64],
    budget: u64,
    tokens: Option<&[u32]>,
    n_threads: usize,
) -> Picked {
    let options =
        g2is::Options { directions, weights: &[0.7, 0.3], ratio: 0.8, limit: limit(budget, tokens), tokens, n_threads };
    g2is::g2is(source, graph, &options, &Supervisor::none()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 96 }, ..ProptestConfig::default() })]

    #[test]
    fn the_walk_is_the_plain_one(n in 3usize..90, k in 1usize..12, budget in 0u64..120, costly in any::<bool>(), random_seed in any::<u64>()) {
        let (x, directions) = (data(n, random_seed), directions(random_seed));
        let (source, units) = (array(&x), units(&x));
        let graph = graph(&source, k.min(n - 1));
        let costs: Vec<u32> = (0..n).map(|i| (row_hash(random_seed ^ 9, i as u64) % 4) as u32).collect();
        let tokens = costly.then_some(&costs[..]);
        let case = Case { units: &units, valid: &|_| true, graph: &graph, tokens };
        let (expected, ended) = plain_walk(&case, &directions, &[0.7, 0.3], budget);
        let picked = walked(&source, &graph, &directions, budget, tokens, 1);
        prop_assert_eq!(picked.rows.iter().copied().zip(picked.directions.iter().copied()).collect::<Vec<_>>(), expected);
        prop_assert_eq!(&picked.ended, &ended);
        prop_assert!(picked.rows.iter().map(|&row| case.cost(row as usize)).sum::<u64>() <= budget);
        prop_assert_eq!(&picked, &walked(&source, &graph, &directions, budget, tokens, 2));
    }

    #[test]
    fn shares_add_up(budget in 0u64..1000, weights in proptest::collection::vec(0f64..1.0, 1..9)) {
        prop_assume!(weights.iter().sum::<f64>() > 0.0);
        let (split, sum) = (shares(budget, &weights), weights.iter().sum::<f64>());
        prop_assert_eq!(split.iter().sum::<u64>(), budget);
        for (share, weight) in split.iter().zip(&weights) {
            prop_assert!((*share as f64 - budget as f64 * weight / sum).abs() < 1.0 + 1e-9);
        }
    }
}

/// As published, the second walk would start at row 2, whose cosine is 0, and then go on to row 1, which points away:
/// 0.8 times 0 is no more than any absolute value.
#[test]
fn no_walk_goes_away_from_its_direction() {
    let axis = |j: usize, value: f32| (0..DIM).map(move |i| if i == j { value } else { 0.0 });
    let x: Vec<f32> = axis(0, 1.0).chain(axis(1, -1.0)).chain(axis(2, 1.0)).collect();
    let directions: Vec<f64> = axis(0, 1.0).chain(axis(1, 1.0)).map(f64::from).collect();
    let source = array(&x);
    let picked = walked(&source, &graph(&source, 2), &directions, 3, None, 1);
    // Row 2 is neither for nor against, but would turn the sum by 45 degrees: to 0.71 < 0.8.
    assert_eq!((picked.rows, picked.directions, picked.ended), (vec![0], vec![0], vec![true, true]));
}

#[test]
fn invalid_rows_of_a_store_are_never_picked() {
    for random_seed in 0..4 {
        let x = data(60, random_seed);
        let (_directory, store, valid) = store_with_invalid_rows(&x, random_seed);
        let source = Source::store(&store).unwrap();
        let (graph, units, directions) = (graph(&source, 5), units(&x), directions(random_seed));
        let case = Case { units: &units, valid: &|i| valid[i], graph: &graph, tokens: None };
        let picked = walked(&source, &graph, &directions, 60, None, 2);
        let (expected, _) = plain_walk(&case, &directions, &[0.7, 0.3], 60);
        assert_eq!(picked.rows, expected.iter().map(|&(row, _)| row).collect::<Vec<_>>());
    }
}

#[test]
fn directions_and_weights_that_do_not_fit_are_named() {
    let x = data(5, 1);
    let source = array(&x);
    let graph = graph(&source, 2);
    let message = |directions: &[f64], weights: &[f64]| {
        let options =
            g2is::Options { directions, weights, ratio: 0.8, limit: Limit::Rows(1), tokens: None, n_threads: 1 };
        g2is::g2is(&source, &graph, &options, &Supervisor::none()).unwrap_err().to_string()
    };
    assert!(message(&[1.0; 16], &[1.0]).starts_with("directions: expected unit vectors [V, 16]"));
    assert!(message(&[0.25; 16], &[0.0]).starts_with("weights: expected 1 numbers of at least 0, not all 0"));
}
