use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn run(labels: &[i64], budget: u64, seed: u64, priority: Priority, costs: Option<Column>) -> Result<Vec<i64>> {
    resample(Labels::I64(labels), budget, seed, priority, costs, &Supervisor::none())
}

/// Equal quotas as one would do it by hand: hand out one row after another to the cluster that has got the fewest.
fn naive(labels: &[i64], budget: usize, seed: u64, key: &dyn Fn(usize) -> Option<f64>) -> Vec<i64> {
    let mut clusters: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (row, &label) in labels.iter().enumerate().filter(|(row, &label)| label >= 0 && key(*row).is_some()) {
        clusters.entry(label).or_default().push(row);
    }
    for rows in clusters.values_mut() {
        rows.sort_by(|&a, &b| key(a).unwrap().total_cmp(&key(b).unwrap()).then(a.cmp(&b)));
    }
    let mut order: Vec<i64> = clusters.keys().copied().collect();
    order.sort_by_key(|&label| row_hash(derive(seed, "clusters"), label as u64));
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
        labels in prop::collection::vec(-1i64..6, 0..80), budget in 0usize..90, seed in any::<u64>(),
        weights in prop::collection::vec(0u8..4, 80), kind in 0..3
    ) {
        let n = labels.len();
        let weights: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
        let rows = derive(seed, "rows");
        let u = |row: usize| unit(row_hash(rows, row as u64));
        let drawn = |budget: usize| match kind {
            0 => run(&labels, budget as u64, seed, Priority::Hash, None).unwrap(),
            1 => run(&labels, budget as u64, seed, Priority::Weights(Column::F64(&weights[..n])), None).unwrap(),
            _ => run(&labels, budget as u64, seed, Priority::Values(Column::F64(&weights[..n])), None).unwrap(),
        };
        let expected = match kind {
            0 => naive(&labels, budget, seed, &|row| Some(u(row))),
            1 => naive(&labels, budget, seed, &|row| (weights[row] > 0.0).then(|| -u(row).ln() / weights[row])),
            _ => naive(&labels, budget, seed, &|row| Some(-weights[row])),
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
    fn a_sample_is_the_smallest_hashes(n in 0u64..200, k in 0usize..220, seed in any::<u64>()) {
        let mut rows: Vec<u64> = (0..n).collect();
        rows.sort_by_key(|&row| row_hash(seed, row));
        rows.truncate(k);
        rows.sort_unstable();
        prop_assert_eq!(bottom_k(0..n, k, seed, &Supervisor::none()).unwrap(), rows);
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
    let heavier = |seed| run(&[0, 0], 1, seed, Priority::Weights(Column::F32(&weights)), None).unwrap() == [1];
    let share = (0..20_000).filter(|&seed| heavier(seed)).count() as f64 / 20_000.0;
    assert!((share - 0.75).abs() < 0.0154, "{share}");
}

#[test]
fn bad_input_is_named() {
    fn message(labels: &[i64], priority: Priority, costs: Option<Column>) -> String {
        run(labels, 1, 0, priority, costs).unwrap_err().to_string()
    }
    assert!(message(&[0, -2], Priority::Hash, None).starts_with("row 1: label -2"));
    assert!(message(&[0, 1 << 40], Priority::Hash, None).starts_with("row 1: label 1099511627776"));
    for weight in [-1.0, f64::NAN, f64::INFINITY] {
        let weights = [1.0, weight];
        assert!(message(&[0, 0], Priority::Weights(Column::F64(&weights)), None).starts_with("row 1: weight"));
    }
    assert!(message(&[0, 0], Priority::Values(Column::F64(&[1.0, f64::NAN])), None).starts_with("row 1: priority NaN"));
    assert!(message(&[0, 0], Priority::Hash, Some(Column::I64(&[1, -5]))).starts_with("row 1: cost -5"));
    assert!(message(&[0, 0], Priority::Hash, Some(Column::I64(&[1]))).contains("expected one a row, 2; got 1"));
}

#[test]
fn both_marks_of_rows_that_are_not_eligible_count() {
    let labels = [u32::MAX, 0, 1];
    let rows = resample(Labels::U32(&labels), 9, 0, Priority::Hash, None, &Supervisor::none()).unwrap();
    assert_eq!(rows.iter().copied().collect::<std::collections::BTreeSet<_>>(), [1, 2].into());
    assert_eq!(run(&[-1, i64::from(u32::MAX), 4], 9, 0, Priority::Hash, None).unwrap(), [2]);
}
