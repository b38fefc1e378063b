//! The number of rows that each cluster gives.

use super::Row;
use crate::hash::{derive, row_hash};

/// The rule for the weight of a cluster. Its share of the budget is in proportion to the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotas {
    /// Every cluster has the same weight.
    Equal,
    /// The number of eligible rows.
    Proportional,
    /// The square root of the number of eligible rows.
    Sqrt,
}

impl Quotas {
    pub const ALL: [(Quotas, &'static str); 3] =
        [(Quotas::Equal, "equal"), (Quotas::Proportional, "proportional"), (Quotas::Sqrt, "sqrt")];

    pub fn from_name(name: &str) -> Option<Quotas> {
        Quotas::ALL.into_iter().find(|(_, n)| *n == name).map(|(quotas, _)| quotas)
    }
}

/// The clusters with at least one eligible row, in a hashed order.
pub struct Clusters<'a> {
    counts: &'a [u64],
    rule: Quotas,
    /// The numbers of the clusters in that order.
    order: Vec<usize>,
}

impl<'a> Clusters<'a> {
    /// `counts` has the eligible rows of the clusters with these labels.
    pub fn new(labels: &[usize], counts: &'a [u64], rule: Quotas, random_seed: u64) -> Clusters<'a> {
        let cluster_seed = derive(random_seed, "clusters");
        let mut order: Vec<usize> = (0..labels.len()).filter(|&k| counts[k] > 0).collect();
        order.sort_by_cached_key(|&k| (row_hash(cluster_seed, labels[k] as u64), labels[k]));
        Clusters { counts, rule, order }
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn weight(&self, k: usize) -> f64 {
        match self.rule {
            Quotas::Equal => 1.0,
            Quotas::Proportional => self.counts[k] as f64,
            Quotas::Sqrt => (self.counts[k] as f64).sqrt(),
        }
    }

    /// The weight as an integer, so that remainders are exact. A square root of n < 2^64 is taken times 2^32 and
    /// rounded down.
    fn whole_weight(&self, k: usize) -> u128 {
        let count = u128::from(self.counts[k]);
        match self.rule {
            Quotas::Equal => 1,
            Quotas::Proportional => count,
            Quotas::Sqrt => (count << 64).isqrt(),
        }
    }

    /// The first rows of each cluster up to its quota, with their places, in the order of all rows. `rows` has the rows
    /// of each cluster in its own order.
    pub fn order_of(&self, rows: &[Vec<Row>], quotas: &[u64]) -> Vec<(f64, Row)> {
        let mut placed = Vec::new();
        for (rank, &k) in self.order.iter().enumerate() {
            let place = |r: usize| (r as f64 + 0.5) / self.weight(k);
            let quota = usize::try_from(quotas[k]).unwrap_or(usize::MAX);
            placed.extend(rows[k].iter().take(quota).enumerate().map(|(r, &row)| (place(r), rank, row)));
        }
        // A cluster's rows have places that differ, so no two are equal here.
        placed.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        placed.into_iter().map(|(place, _, row)| (place, row)).collect()
    }
}

pub struct Filled {
    /// The rows of each cluster.
    pub quotas: Vec<u64>,
    /// The rows of a cluster of weight 1 that never runs short. Infinite when all clusters run short.
    pub level: f64,
}

impl Filled {
    /// The most rows that a cluster of weight 1 gives.
    pub fn most(&self) -> u64 {
        // A cast of infinity is the largest number.
        (self.level.floor() as u64).saturating_add(1)
    }
}

/// Quotas in proportion to the weights. A cluster gives no more than it has; the others share the difference by weight.
/// Shares are rounded down. The remaining rows go to the largest remainders (Hamilton's method), and among equal
/// remainders to the first in the hashed order. The arithmetic is in integers, which stay below 2^128 for 2^44 rows.
pub fn fill(clusters: &Clusters, budget: u64) -> Filled {
    let count = |k: usize| clusters.counts[k];
    let mut quotas = vec![0; clusters.counts.len()];
    // The smallest clusters run short first, by every rule. The sort is stable, so equal ones stay in the hashed order.
    let mut order = clusters.order.clone();
    order.sort_by_key(|&k| count(k));
    let mut weight: u128 = order.iter().map(|&k| clusters.whole_weight(k)).sum();
    let (mut remaining, mut first) = (u128::from(budget.min(order.iter().map(|&k| count(k)).sum())), 0);
    while let Some(&k) = order.get(first) {
        // The loop ends when the share of the cluster is smaller than the cluster.
        let own = clusters.whole_weight(k);
        if u128::from(count(k)) * weight > remaining * own {
            break;
        }
        quotas[k] = count(k);
        remaining -= u128::from(count(k));
        weight -= own;
        first += 1;
    }
    if first == order.len() {
        return Filled { quotas, level: f64::INFINITY };
    }
    let mut rest = Vec::with_capacity(order.len() - first);
    let mut given = 0;
    for &k in &clusters.order {
        let share = remaining * clusters.whole_weight(k);
        // The clusters that run short already give all their rows.
        if quotas[k] == 0 {
            quotas[k] = (share / weight) as u64;
            given += share / weight;
            rest.push((share % weight, k));
        }
    }
    // There are fewer remaining rows than positive remainders. The sort is stable: the hashed order decides among
    // equals.
    rest.sort_by_key(|&(remainder, _)| std::cmp::Reverse(remainder));
    rest.iter().take((remaining - given) as usize).for_each(|&(_, k)| quotas[k] += 1);
    let unit = if clusters.rule == Quotas::Sqrt { 2f64.powi(32) } else { 1.0 };
    Filled { quotas, level: remaining as f64 / (weight as f64 / unit) }
}
