//! The walk and the penalties against plain versions, on rows of unit length whose products float64 holds exactly.

use bytemuck::cast_slice;
use proptest::prelude::*;

use super::neighbours::{exact, Graph, Options as Search};
use super::penalty::{self, Chosen};
use super::walk::{self, shares, Walked};
use super::*;
use crate::hash::row_hash;
use crate::interrupt::Supervisor;
use crate::kmeans::Source;
use crate::rows::Rows;
use crate::store::{Store, TensorData};
use crate::Dtype;

const DIM: usize = 16;

/// Rows with 4 or 16 columns of 1 or -1, mostly 1, and zeros else: lengths 2 and 4. Some are zero, some there twice.
fn data(n: usize, seed: u64) -> Vec<f32> {
    let mut x = vec![0f32; n * DIM];
    for i in 0..n {
        let random = row_hash(seed, i as u64);
        let sign = |j: usize| if row_hash(!seed, (i * DIM + j) as u64).is_multiple_of(5) { -1.0 } else { 1.0 };
        match random % 16 {
            0 => (),
            1 | 2 if i > 0 => x.copy_within((i - 1) * DIM..i * DIM, i * DIM),
            3..8 => (0..DIM).for_each(|j| x[i * DIM + j] = sign(j)),
            _ => (0..4).for_each(|j| x[i * DIM + (j * 5 + (random >> 8) as usize) % DIM] = sign(j)),
        }
    }
    x
}

fn array(x: &[f32]) -> Source<'_> {
    Source::Array(Rows::new(Dtype::F32, DIM, cast_slice(x), &[]).unwrap())
}

fn graph(source: &Source, k: usize) -> Graph {
    exact(source, &Search { k, kernel: None, n_threads: 2 }, &Supervisor::none()).unwrap()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn units(x: &[f32]) -> Vec<Vec<f64>> {
    let wide = x.chunks(DIM).map(|x| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
    wide.map(|x| dot(&x, &x).sqrt()).zip(x.chunks(DIM)).map(scaled).collect()
}

fn scaled((norm, x): (f64, &[f32])) -> Vec<f64> {
    x.iter().map(|&x| if norm > 0.0 { f64::from(x) / norm } else { 0.0 }).collect()
}

/// Two directions of unit length, all of whose columns are a quarter, or a half of four.
fn directions(seed: u64) -> Vec<f64> {
    let first = (0..DIM).map(|j| if row_hash(seed, j as u64).is_multiple_of(6) { -0.25 } else { 0.25 });
    let second = (0..DIM).map(|j| if j % 4 == seed as usize % 4 { 0.5 } else { 0.0 });
    first.chain(second).collect()
}

struct Case<'a> {
    units: &'a [Vec<f64>],
    valid: &'a dyn Fn(usize) -> bool,
    graph: &'a Graph,
    costs: Costs<'a>,
}

/// Everything from the start at each step. Returns (row, direction), and which walks have ended.
fn plain_walk(case: &Case, directions: &[f64], weights: &[f64], budget: u64) -> (Vec<(i64, u32)>, Vec<bool>) {
    let Case { units, graph, .. } = case;
    let n = units.len();
    let v = weights.len();
    let (mut taken, mut sets, mut order) = (vec![false; n], vec![Vec::<usize>::new(); v], Vec::new());
    let (mut ended, mut share, mut left) = (vec![false; v], vec![0u64; v], budget);
    while left > 0 && (0..v).any(|d| !ended[d] && weights[d] > 0.0) {
        let weights: Vec<f64> = (0..v).map(|d| if ended[d] { 0.0 } else { weights[d] }).collect();
        shares(left, &weights).iter().enumerate().for_each(|(d, more)| share[d] += more);
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
                    Some(row) if case.costs.of(row) > share[d] => break,
                    Some(row) => {
                        share[d] -= case.costs.of(row);
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
        left = (0..v).filter(|&d| ended[d]).map(|d| std::mem::take(&mut share[d])).sum();
    }
    (order, ended)
}

fn walked(source: &Source, graph: &Graph, directions: &[f64], budget: u64, costs: Costs, n_threads: usize) -> Walked {
    let options = walk::Options { directions, weights: &[0.7, 0.3], ratio: 0.8, budget, costs, n_threads };
    walk::walk(source, graph, &options, &Supervisor::none()).unwrap()
}

/// Sorts all at every step. Returns the rows, and their difficulties when chosen.
fn plain_penalty(case: &Case, difficulty: &[f32], k: usize, gamma: f64, budget: u64) -> (Vec<i64>, Vec<f32>) {
    let units = case.units;
    let valid: Vec<usize> = (0..units.len()).filter(|&i| (case.valid)(i)).collect();
    let lowest = valid.iter().map(|&i| difficulty[i]).fold(f32::INFINITY, f32::min);
    let mut now: Vec<f64> = difficulty.iter().map(|&d| f64::from(d) - f64::from(lowest)).collect();
    let (mut open, mut rows, mut left, mut spent) = (valid, Vec::new(), Vec::new(), 0);
    while !open.is_empty() {
        open.sort_by(|&a, &b| now[b].total_cmp(&now[a]).then(a.cmp(&b)));
        let row = open[0];
        spent += case.costs.of(row);
        if spent > budget {
            break;
        }
        open.remove(0);
        rows.push(row as i64);
        left.push(now[row] as f32);
        let cosine = |other: usize| f64::from(dot(&units[row], &units[other]) as f32);
        open.sort_by(|&a, &b| cosine(b).total_cmp(&cosine(a)).then(a.cmp(&b)));
        for &other in open.iter().take(k) {
            if now[row] > 0.0 && cosine(other) > 0.0 {
                now[other] -= gamma * now[row] * cosine(other).powi(2);
            }
        }
    }
    (rows, left)
}

fn chosen(
    source: &Source,
    graph: &Graph,
    difficulty: &[f32],
    k: usize,
    gamma: f64,
    budget: u64,
    costs: Costs,
) -> Chosen {
    let options = penalty::Options { difficulty, k, gamma, budget, costs, n_threads: 2 };
    penalty::choose(source, graph, &options, &Supervisor::none()).unwrap()
}

/// Whole eighths, of both signs, many of them alike.
fn difficulties(n: usize, seed: u64) -> Vec<f32> {
    (0..n).map(|i| (row_hash(seed ^ 5, i as u64) % 64) as f32 / 8.0 - 4.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 96 }, ..ProptestConfig::default() })]

    #[test]
    fn the_walk_is_the_plain_one(n in 3usize..90, k in 1usize..12, budget in 0u64..120, costly in any::<bool>(), seed in any::<u64>()) {
        let (x, directions) = (data(n, seed), directions(seed));
        let (source, units) = (array(&x), units(&x));
        let graph = graph(&source, k.min(n - 1));
        let costs: Vec<u32> = (0..n).map(|i| (row_hash(seed ^ 9, i as u64) % 4) as u32).collect();
        let costs = Costs(costly.then_some(&costs[..]));
        let case = Case { units: &units, valid: &|_| true, graph: &graph, costs };
        let (expected, ended) = plain_walk(&case, &directions, &[0.7, 0.3], budget);
        let found = walked(&source, &graph, &directions, budget, costs, 1);
        prop_assert_eq!(found.rows.iter().copied().zip(found.directions.iter().copied()).collect::<Vec<_>>(), expected);
        prop_assert_eq!(&found.ended, &ended);
        prop_assert!(found.rows.iter().map(|&row| costs.of(row as usize)).sum::<u64>() <= budget);
        prop_assert_eq!(&found, &walked(&source, &graph, &directions, budget, costs, 2));
    }

    /// However few neighbours are stored.
    #[test]
    fn the_penalties_are_the_plain_ones(
        n in 3usize..90, stored in 1usize..30, k in 1usize..12, halves in 0u32..4, budget in 0u64..120, seed in any::<u64>()
    ) {
        let x = data(n, seed);
        let (source, units, difficulty) = (array(&x), units(&x), difficulties(n, seed));
        let graph = graph(&source, stored.min(n - 1));
        let (k, gamma) = (k.min(n - 1), f64::from(halves) / 2.0);
        let case = Case { units: &units, valid: &|_| true, graph: &graph, costs: Costs(None) };
        let (expected, left) = plain_penalty(&case, &difficulty, k, gamma, budget);
        let found = chosen(&source, &graph, &difficulty, k, gamma, budget, Costs(None));
        prop_assert_eq!(&found.rows, &expected);
        prop_assert_eq!(&found.left, &left);
        // A smaller budget's rows are the beginning of a larger one's; and where zero lies does not matter.
        let smaller = chosen(&source, &graph, &difficulty, k, gamma, budget / 2, Costs(None));
        prop_assert_eq!(&smaller.rows[..], &expected[..smaller.rows.len()]);
        let shifted: Vec<f32> = difficulty.iter().map(|d| d - 1024.0).collect();
        prop_assert_eq!(&chosen(&source, &graph, &shifted, k, gamma, budget, Costs(None)), &found);
    }

    #[test]
    fn shares_add_up(budget in 0u64..1000, weights in proptest::collection::vec(0f64..1.0, 1..9)) {
        prop_assume!(weights.iter().sum::<f64>() > 0.0);
        let (found, sum) = (shares(budget, &weights), weights.iter().sum::<f64>());
        prop_assert_eq!(found.iter().sum::<u64>(), budget);
        for (share, weight) in found.iter().zip(&weights) {
            prop_assert!((*share as f64 - budget as f64 * weight / sum).abs() < 1.0 + 1e-9);
        }
    }
}

#[test]
fn invalid_rows_of_a_store_are_never_chosen() {
    for seed in 0..4 {
        let (n, x) = (60, data(60, seed));
        let valid: Vec<u8> = (0..n).map(|i| u8::from(!row_hash(seed, i).is_multiple_of(4))).collect();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), DIM, Dtype::F16, 16, false).unwrap();
        for (index, (x, valid)) in x.chunks(16 * DIM).zip(valid.chunks(16)).enumerate() {
            let tensor = TensorData { name: "valid", dtype: Dtype::U8, shape: vec![valid.len()], bytes: valid };
            store.write_shard(index, Rows::new(Dtype::F32, DIM, cast_slice(x), &[]).unwrap(), &[tensor]).unwrap();
        }
        let source = Source::store(&store).unwrap();
        let (graph, units, directions) = (graph(&source, 5), units(&x), directions(seed));
        let is_valid = |i: usize| valid[i] != 0;
        let case = Case { units: &units, valid: &is_valid, graph: &graph, costs: Costs(None) };
        let found = walked(&source, &graph, &directions, 60, Costs(None), 2);
        let (expected, _) = plain_walk(&case, &directions, &[0.7, 0.3], 60);
        assert_eq!(found.rows, expected.iter().map(|&(row, _)| row).collect::<Vec<_>>());
        let mut difficulty = difficulties(60, seed);
        (0..60).filter(|&i| !is_valid(i)).for_each(|i| difficulty[i] = f32::NAN);
        let found = chosen(&source, &graph, &difficulty, 4, 1.0, 60, Costs(None));
        assert_eq!(found.rows, plain_penalty(&case, &difficulty, 4, 1.0, 60).0);
    }
}

/// As published, the second walk would start at row 2, whose cosine is 0, and then go on to row 1, which points away: 0.8
/// times 0 is no more than any absolute value.
#[test]
fn no_walk_goes_away_from_its_direction() {
    let axis = |j: usize, value: f32| (0..DIM).map(move |i| if i == j { value } else { 0.0 });
    let x: Vec<f32> = axis(0, 1.0).chain(axis(1, -1.0)).chain(axis(2, 1.0)).collect();
    let directions: Vec<f64> = axis(0, 1.0).chain(axis(1, 1.0)).map(f64::from).collect();
    let source = array(&x);
    let found = walked(&source, &graph(&source, 2), &directions, 3, Costs(None), 1);
    // Row 2 is neither for nor against, but would turn the sum by 45 degrees: to 0.71 < 0.8.
    assert_eq!((found.rows, found.directions, found.ended), (vec![0], vec![0], vec![true, true]));
}

/// As published, row 1 (difficulty -1, chosen third) would raise its neighbour's.
#[test]
fn no_penalty_is_a_bonus() {
    let x: Vec<f32> = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
        .iter()
        .flat_map(|pair| (0..DIM).map(move |j| if j < 2 { pair[j] } else { 0.0 }))
        .collect();
    let source = array(&x);
    let found = chosen(&source, &graph(&source, 3), &[-0.5, -1.0, -3.0, -4.0], 3, 1.0, 4, Costs(None));
    assert_eq!(found.rows, [0, 1, 2, 3]);
    assert_eq!(found.difficulty, [3.5, 3.0, 1.0, 0.0]);
    assert_eq!(found.left, [3.5, 3.0, -2.0, -3.5]);
}

#[test]
fn what_does_not_fit_together_is_told() {
    let x = data(5, 1);
    let source = array(&x);
    let graph = graph(&source, 2);
    let supervisor = Supervisor::none();
    let message = |difficulty: &[f32], graph: &Graph| {
        let options = penalty::Options { difficulty, k: 1, gamma: 1.0, budget: 1, costs: Costs(None), n_threads: 1 };
        penalty::choose(&source, graph, &options, &supervisor).unwrap_err().to_string()
    };
    assert_eq!(message(&[0.0; 4], &graph), "difficulty: expected 5 numbers, one for each row; got 4");
    let nan = [0.0, f32::NAN, 0.0, 0.0, 0.0];
    assert_eq!(message(&nan, &graph), "difficulty of row 1: expected a finite number, got NaN");
    let short = Graph { k: 2, neighbours: vec![0; 8], cosines: vec![0.0; 8] };
    assert_eq!(message(&[0.0; 5], &short), "neighbours of 4 rows: expected 5, one line for each row");
    let far = Graph { k: 2, neighbours: vec![7; 10], cosines: vec![0.0; 10] };
    assert_eq!(message(&[0.0; 5], &far), "neighbours of row 0: expected rows below 5, got 7");
    let walk = |directions: &[f64], weights: &[f64]| {
        let options = walk::Options { directions, weights, ratio: 0.8, budget: 1, costs: Costs(None), n_threads: 1 };
        walk::walk(&source, &graph, &options, &supervisor).unwrap_err().to_string()
    };
    assert!(walk(&[1.0; 16], &[1.0]).starts_with("directions: expected unit vectors [V, 16]"));
    assert!(walk(&[0.25; 16], &[0.0]).starts_with("weights: expected 1 numbers of at least 0, not all 0"));
}
