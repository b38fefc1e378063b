//! How many rows each cluster gives.

use super::Row;
use crate::hash::{derive, row_hash};

/// What a cluster's share of the budget is in proportion to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotas {
    /// The same for every cluster.
    Equal,
    /// Its eligible rows.
    Proportional,
    /// The square root of its eligible rows.
    Sqrt,
}

impl Quotas {
    pub const ALL: [(Quotas, &'static str); 3] =
        [(Quotas::Equal, "equal"), (Quotas::Proportional, "proportional"), (Quotas::Sqrt, "sqrt")];

    pub fn from_name(name: &str) -> Option<Quotas> {
        Quotas::ALL.into_iter().find(|(_, n)| *n == name).map(|(quotas, _)| quotas)
    }
}

/// Clusters with at least one eligible row, in their hashed order.
pub struct Clusters<'a> {
    counts: &'a [u64],
    rule: Quotas,
    order: Vec<usize>,
}

impl<'a> Clusters<'a> {
    /// `counts` are the eligible rows by label.
    pub fn new(counts: &'a [u64], rule: Quotas, seed: u64) -> Clusters<'a> {
        let cluster_seed = derive(seed, "clusters");
        let mut order: Vec<usize> = (0..counts.len()).filter(|&label| counts[label] > 0).collect();
        order.sort_by_cached_key(|&label| (row_hash(cluster_seed, label as u64), label));
        Clusters { counts, rule, order }
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn weight(&self, label: usize) -> f64 {
        match self.rule {
            Quotas::Equal => 1.0,
            Quotas::Proportional => self.counts[label] as f64,
            Quotas::Sqrt => (self.counts[label] as f64).sqrt(),
        }
    }

    /// Rows, given by label and in their clusters' orders, in the order of all: with their places in it.
    pub fn order_of(&self, rows: Vec<Vec<Row>>) -> Vec<(f64, Row)> {
        let mut placed = Vec::with_capacity(rows.iter().map(Vec::len).sum());
        for (rank, &label) in self.order.iter().enumerate() {
            let place = |r: usize| (r as f64 + 0.5) / self.weight(label);
            placed.extend(rows[label].iter().enumerate().map(|(r, &row)| (place(r), rank, row)));
        }
        // A cluster's rows have places that differ, so no two are equal here.
        placed.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        placed.into_iter().map(|(place, _, row)| (place, row)).collect()
    }
}

pub struct Filled {
    /// Rows of each cluster, by label.
    pub quotas: Vec<u64>,
    /// What a cluster of weight 1 would get if it never ran short; infinite when all do.
    pub level: f64,
}

impl Filled {
    /// The most that any cluster of weight 1 gives.
    pub fn most(&self) -> u64 {
        // A cast of infinity is the largest number.
        (self.level.floor() as u64).saturating_add(1)
    }
}

/// Quotas in proportion to the weights. A cluster gives no more than it has, and what it falls short of goes to the
/// others by weight. Shares are rounded down, and the rows that are left go to the largest remainders (Hamilton's
/// method), of equal ones to the first in the hashed order.
pub fn fill(clusters: &Clusters, budget: u64) -> Filled {
    let count = |k: usize| clusters.counts[k];
    let mut quotas = vec![0; clusters.counts.len()];
    // Those that run short first; the sort is stable, so the hashed order stays among equals.
    let mut order = clusters.order.clone();
    order.sort_by(|&a, &b| (count(a) as f64 / clusters.weight(a)).total_cmp(&(count(b) as f64 / clusters.weight(b))));
    let mut weights_from: Vec<f64> = order.iter().map(|&k| clusters.weight(k)).collect();
    for i in (1..weights_from.len()).rev() {
        weights_from[i - 1] += weights_from[i];
    }
    let (mut left, mut first) = (budget, 0);
    while first < order.len() {
        let k = order[first];
        if count(k) > left || count(k) as f64 / clusters.weight(k) > left as f64 / weights_from[first] {
            break;
        }
        quotas[k] = count(k);
        left -= count(k);
        first += 1;
    }
    let Some(&weight) = weights_from.get(first) else { return Filled { quotas, level: f64::INFINITY } };
    let level = left as f64 / weight;
    let mut rest: Vec<(f64, usize)> = Vec::with_capacity(order.len() - first);
    let mut given = 0;
    for &k in &order[first..] {
        let share = level * clusters.weight(k);
        // Rounding may carry a share beyond what there is, by a row at most.
        quotas[k] = (share.floor() as u64).min(count(k)).min(left - given);
        given += quotas[k];
        rest.push((share - share.floor(), k));
    }
    let mut rank = vec![0; clusters.counts.len()];
    clusters.order.iter().enumerate().for_each(|(place, &k)| rank[k] = place);
    rest.sort_by(|a, b| b.0.total_cmp(&a.0).then(rank[a.1].cmp(&rank[b.1])));
    while given < left {
        let before = given;
        for &(_, k) in &rest {
            if given < left && quotas[k] < count(k) {
                quotas[k] += 1;
                given += 1;
            }
        }
        if given == before {
            break;
        }
    }
    Filled { quotas, level }
}
