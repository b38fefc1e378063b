use std::collections::BTreeMap;

use proptest::prelude::*;

use super::heaps::{Caps, Heaps};
use super::quotas::{fill, Clusters, Filled};
use super::*;
use crate::hash::{derive, row_hash, unit};

fn draw(
    labels: Labels,
    budget: u64,
    random_seed: u64,
    priority: Priority,
    costs: Option<Column>,
    quotas: Quotas,
) -> Result<Vec<i64>> {
    let rows = Arrays::new(labels, priority, costs, random_seed)?;
    let limit = if costs.is_some() { Limit::Tokens(budget) } else { Limit::Rows(budget) };
    resample(&rows, quotas, limit, random_seed, &Supervisor::none())
}

fn labels_of(counts: &[u64]) -> Vec<usize> {
    (0..counts.len()).collect()
}

fn run(labels: &[i64], budget: u64, random_seed: u64, priority: Priority, costs: Option<Column>) -> Result<Vec<i64>> {
    draw(Labels::I64(labels), budget, random_seed, priority, costs, Quotas::Equal)
}

/// Hamilton's method as one would do it by hand: what the short ones have is taken, until nobody is short; then whole
/// shares, then a row each to the largest remainders. Numbers small enough for exact integers: weights are the counts.
fn naive_proportional(counts: &[u64], order: &[usize], budget: u64) -> Vec<u64> {
    let total: u64 = counts.iter().sum();
    if budget >= total {
        return counts.to_vec();
    }
    // A share in proportion to the counts never exceeds them, so nobody is short.
    let mut quotas: Vec<u64> = counts.iter().map(|c| c * budget / total).collect();
    let mut by_remainder: Vec<usize> = order.to_vec();
    by_remainder.sort_by_key(|&k| std::cmp::Reverse(counts[k] * budget % total));
    let remaining = (budget - quotas.iter().sum::<u64>()) as usize;
    by_remainder.iter().take(remaining).for_each(|&k| quotas[k] += 1);
    quotas
}

/// The order of all rows by (r + 1/2) / w, the slow way.
fn naive_order(labels: &[i64], random_seed: u64, quotas: Quotas) -> Vec<i64> {
    let mut clusters: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
    labels
        .iter()
        .enumerate()
        .filter(|(_, &l)| l >= 0)
        .for_each(|(row, &l)| clusters.entry(l).or_default().push(row as u64));
    let mut placed = Vec::new();
    for (&label, rows) in &mut clusters {
        rows.sort_by_key(|&row| row_hash(derive(random_seed, "rows"), row));
        let n = rows.len() as f64;
        let weight = [1.0, n, n.sqrt()][Quotas::ALL.iter().position(|q| q.0 == quotas).unwrap()];
        let rank = row_hash(derive(random_seed, "clusters"), label as u64);
        placed.extend(rows.iter().enumerate().map(|(r, &row)| ((r as f64 + 0.5) / weight, rank, row as i64)));
    }
    placed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    placed.into_iter().map(|(_, _, row)| row).collect()
}

/// Equal quotas as one would do it by hand: hand out one row after another to the cluster that has got the fewest.
fn naive(labels: &[i64], budget: usize, random_seed: u64, key: &dyn Fn(usize) -> Option<f64>) -> Vec<i64> {
    let mut clusters: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (row, &label) in labels.iter().enumerate().filter(|(row, &label)| label >= 0 && key(*row).is_some()) {
        clusters.entry(label).or_default().push(row);
    }
    for rows in clusters.values_mut() {
        rows.sort_by(|&a, &b| key(a).unwrap().total_cmp(&key(b).unwrap()).then(a.cmp(&b)));
    }
    let mut order: Vec<i64> = clusters.keys().copied().collect();
    order.sort_by_key(|&label| row_hash(derive(random_seed, "clusters"), label as u64));
    let (mut given, mut chosen) = (BTreeMap::new(), Vec::new());
    while chosen.len() < budget {
        let open = order.iter().filter(|label| given.get(label).unwrap_or(&0) < &clusters[label].len());
        let Some(label) = open.min_by_key(|label| *given.get(label).unwrap_or(&0)) else { break };
        let count = given.entry(label).or_insert(0);
        chosen.push(clusters[label][*count] as i64);
        *count += 1;
    }
    chosen
}

proptest! {
    #[test]
    fn the_draw_is_the_naive_draw(
        labels in prop::collection::vec(-1i64..6, 0..80), budget in 0usize..90, random_seed in any::<u64>(),
        weights in prop::collection::vec(0u8..4, 80), kind in 0..3
    ) {
        let n = labels.len();
        let weights: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
        let rows = derive(random_seed, "rows");
        let u = |row: usize| unit(row_hash(rows, row as u64));
        let drawn = |budget: usize| match kind {
            0 => run(&labels, budget as u64, random_seed, Priority::Hash, None).unwrap(),
            1 => run(&labels, budget as u64, random_seed, Priority::Weights(Column::F64(&weights[..n])), None).unwrap(),
            _ => run(&labels, budget as u64, random_seed, Priority::Values(Column::F64(&weights[..n])), None).unwrap(),
        };
        let expected = match kind {
            0 => naive(&labels, budget, random_seed, &|row| Some(u(row))),
            1 => naive(&labels, budget, random_seed, &|row| (weights[row] > 0.0).then(|| -u(row).ln() / weights[row])),
            _ => naive(&labels, budget, random_seed, &|row| Some(-weights[row])),
        };
        let got = drawn(budget);
        prop_assert_eq!(&got, &expected);
        // Nested: a smaller budget gives a prefix.
        prop_assert_eq!(&drawn(budget / 2)[..], &got[..got.len().min(budget / 2)]);
    }

    #[test]
    fn with_costs_the_draw_is_the_longest_prefix_that_fits(
        labels in prop::collection::vec(-1i64..4, 1..60), costs in prop::collection::vec(0i32..9, 60), budget in 0u64..200
    ) {
        let costs = &costs[..labels.len()];
        let all = run(&labels, u64::MAX, 1, Priority::Hash, None).unwrap();
        let got = run(&labels, budget, 1, Priority::Hash, Some(Column::I32(costs))).unwrap();
        let cost = |rows: &[i64]| rows.iter().map(|&row| costs[row as usize] as u64).sum::<u64>();
        prop_assert_eq!(&got[..], &all[..got.len()]);
        prop_assert!(cost(&got) <= budget);
        prop_assert!(got.len() == all.len() || cost(&all[..=got.len()]) > budget);
    }

    #[test]
    fn quotas_by_largest_remainder(counts in prop::collection::vec(0u64..40, 0..8), budget in 0u64..200, random_seed in any::<u64>()) {
        let clusters = Clusters::new(&labels_of(&counts), &counts, Quotas::Proportional, random_seed);
        let mut order: Vec<usize> = (0..counts.len()).filter(|&k| counts[k] > 0).collect();
        order.sort_by_key(|&k| row_hash(derive(random_seed, "clusters"), k as u64));
        let filled = fill(&clusters, budget).quotas;
        // Equal remainders may differ in their last bits, and then which of them gets the row is not determined by
        // hand: what each got is right within one, all of it is given, and no smaller remainder was preferred.
        let expected = naive_proportional(&counts, &order, budget);
        prop_assert_eq!(filled.iter().sum::<u64>(), expected.iter().sum::<u64>());
        let total = counts.iter().sum::<u64>().max(1);
        for a in 0..counts.len() {
            for b in 0..counts.len() {
                let extra = |k: usize| filled[k] > counts[k] * budget.min(total) / total;
                let remainder = |k: usize| counts[k] * budget.min(total) % total;
                prop_assert!(!extra(a) || extra(b) || remainder(a) >= remainder(b), "{:?} {:?}", filled, expected);
            }
        }
    }

    /// Any weights: nobody gives more than it has; who is not short has its share rounded down or up; all is given.
    #[test]
    fn quotas_are_fair(counts in prop::collection::vec(0u64..60, 1..9), budget in 0u64..300, rule in 0usize..3) {
        let clusters = Clusters::new(&labels_of(&counts), &counts, Quotas::ALL[rule].0, 5);
        let Filled { quotas, level } = fill(&clusters, budget);
        prop_assert_eq!(quotas.iter().sum::<u64>(), budget.min(counts.iter().sum()));
        for (k, &quota) in quotas.iter().enumerate().filter(|&(k, _)| counts[k] > 0) {
            prop_assert!(quota <= counts[k]);
            let share = level * clusters.weight(k);
            prop_assert!(quota == counts[k] || (quota as f64 - share).abs() < 1.0 + 1e-9, "{} {}", quota, share);
        }
    }

    /// Rows of every rule come in its order, as many of each cluster as its quota; with costs, the order's beginning.
    #[test]
    fn other_quotas_follow_their_order(
        labels in prop::collection::vec(-1i64..5, 0..90), budget in 0u64..100, random_seed in any::<u64>(), rule in 0usize..3,
        costs in prop::collection::vec(0i32..9, 90)
    ) {
        let quotas = Quotas::ALL[rule].0;
        let all = naive_order(&labels, random_seed, quotas);
        let mut counts = vec![0u64; 5];
        labels.iter().filter(|&&l| l >= 0).for_each(|&l| counts[l as usize] += 1);
        let mut open = fill(&Clusters::new(&labels_of(&counts), &counts, quotas, random_seed), budget).quotas;
        let expected: Vec<i64> = all.iter().copied().filter(|&row| {
            let quota = &mut open[labels[row as usize] as usize];
            let drawn = *quota > 0;
            *quota = quota.saturating_sub(1);
            drawn
        }).collect();
        prop_assert_eq!(draw(Labels::I64(&labels), budget, random_seed, Priority::Hash, None, quotas).unwrap(), expected);

        let costs = Column::I32(&costs[..labels.len()]);
        let got = draw(Labels::I64(&labels), budget, random_seed, Priority::Hash, Some(costs), quotas).unwrap();
        let mut spent = 0;
        let fits = |row: &&i64| { spent += costs.cost(**row as usize).unwrap(); spent <= budget };
        prop_assert_eq!(got, all.iter().take_while(fits).copied().collect::<Vec<_>>());
    }

    #[test]
    fn a_sample_is_the_smallest_hashes(n in 0u64..200, k in 0usize..220, random_seed in any::<u64>()) {
        let mut rows: Vec<u64> = (0..n).collect();
        rows.sort_by_key(|&row| row_hash(random_seed, row));
        rows.truncate(k);
        rows.sort_unstable();
        prop_assert_eq!(bottom_k(0..n, k, random_seed, &Supervisor::none()).unwrap(), rows);
    }

    #[test]
    fn sortable_bits_sort_as_floats(a in any::<f64>(), b in any::<f64>()) {
        prop_assume!(!a.is_nan() && !b.is_nan());
        prop_assert_eq!(a.partial_cmp(&b).unwrap(), sortable(a).cmp(&sortable(b)));
    }
}

/// With weights 1 and 3 in a cluster, the first drawn is the heavier one in 3 of 4 seeds: binomial, so the share of
/// 20,000 lies within 5 standard deviations, 5 sqrt(0.1875 / 20000) = 0.0154, but for one case in a million.
#[test]
fn weighted_draws_follow_the_weights() {
    let weights = [1.0f32, 3.0];
    let heavier =
        |random_seed| run(&[0, 0], 1, random_seed, Priority::Weights(Column::F32(&weights)), None).unwrap() == [1];
    let share = (0..20_000).filter(|&random_seed| heavier(random_seed)).count() as f64 / 20_000.0;
    assert!((share - 0.75).abs() < 0.0154, "{share}");
}

#[test]
fn bad_input_is_named() {
    fn message(labels: &[i64], priority: Priority, costs: Option<Column>) -> String {
        run(labels, 1, 0, priority, costs).unwrap_err().to_string()
    }
    assert!(message(&[0, -2], Priority::Hash, None).ends_with("or -1 for a row to leave out, got -2"));
    assert!(message(&[0, 1 << 40], Priority::Hash, None).starts_with("row 1: label: expected 0 to 268435455"));
    for weight in [-1.0, f64::NAN, f64::INFINITY] {
        let weights = [1.0, weight];
        assert!(message(&[0, 0], Priority::Weights(Column::F64(&weights)), None).starts_with("row 1: weight"));
    }
    assert!(message(&[0, 0], Priority::Values(Column::F64(&[1.0, f64::NAN])), None)
        .starts_with("row 1: priority: expected a number, got NaN"));
    assert!(message(&[0, 0], Priority::Hash, Some(Column::I64(&[1, -5])))
        .starts_with("row 1: cost: expected at least 0, got -5"));
    assert!(message(&[0, 0], Priority::Hash, Some(Column::I64(&[1])))
        .contains("expected 2 numbers, one for each row, got 1"));
}

#[test]
fn both_marks_of_rows_that_are_not_eligible_count() {
    let labels = [u32::MAX, 0, 1];
    let rows = draw(Labels::U32(&labels), 9, 0, Priority::Hash, None, Quotas::Equal).unwrap();
    assert_eq!(rows.iter().copied().collect::<std::collections::BTreeSet<_>>(), [1, 2].into());
    assert_eq!(run(&[-1, i64::from(u32::MAX), 4], 9, 0, Priority::Hash, None).unwrap(), [2]);
}

/// Enough rows that several threads read them and heaps are trimmed; what is drawn is what one heap a cluster gives.
#[test]
fn threads_and_trimming_change_nothing() {
    let n = 5 * CHECK_EVERY + 77;
    // Clusters of very different sizes, the small ones late.
    let labels: Vec<i64> =
        (0..n as u64).map(|i| if i > 200_000 { i as i64 % 40 } else { (row_hash(1, i) % 3) as i64 }).collect();
    let costs: Vec<i32> =
        (0..n as u64).map(|i| (row_hash(2, i) % 50) as i32 * if i % 100 == 0 { 40 } else { 1 }).collect();
    for (quotas, _) in Quotas::ALL {
        let all = naive_order(&labels, 9, quotas);
        let drawn = draw(Labels::I64(&labels), 900, 9, Priority::Hash, None, quotas).unwrap();
        if quotas == Quotas::Equal {
            assert_eq!(drawn, all[..900]);
        }
        assert_eq!(drawn.len(), 900);
        let drawn = draw(Labels::I64(&labels), 20_000, 9, Priority::Hash, Some(Column::I32(&costs)), quotas).unwrap();
        let mut spent = 0;
        let expected: Vec<i64> = all
            .iter()
            .copied()
            .take_while(|&row| {
                spent += costs[row as usize];
                spent <= 20_000
            })
            .collect();
        assert_eq!(drawn, expected);
    }
    let mut heaps = Heaps::new(Caps::Level { budget: 900 });
    let rows = Arrays::new(Labels::I64(&labels), Priority::Hash, None, 9).unwrap();
    rows.each(0..n, &mut |row| heaps.offer(row)).unwrap();
    let held = heaps.held();
    assert!(held <= 2 * (900 + 40) + 1024, "{held} rows are held");
    // An error names the first bad row, whichever thread met one first.
    let mut labels = labels;
    (labels[CHECK_EVERY + 5], labels[4 * CHECK_EVERY]) = (-7, -8);
    let error = draw(Labels::I64(&labels), 9, 9, Priority::Hash, None, Quotas::Equal).unwrap_err().to_string();
    assert!(error.starts_with(&format!("row {}: label: ", CHECK_EVERY + 5)) && error.ends_with("got -7"), "{error}");
}
