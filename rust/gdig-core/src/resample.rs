//! Even draws from clusters: equal quotas, and a cluster that runs short passes its rest on.
//!
//! Equal quotas with largest remainder are a round-robin: the clusters stand in a fixed, hashed order; in round r each
//! gives its r-th row, those of highest priority first. So the answer is a prefix of one order of all rows, and a
//! larger budget only adds to it. Beside its inputs this takes memory for the clusters and the budget alone.

use std::collections::BinaryHeap;

use crate::hash::{derive, row_hash, unit};
use crate::interrupt::Supervisor;
use crate::{Error, Result};

/// A label of rows that are not eligible.
const NOT_ELIGIBLE: u32 = u32::MAX;
/// Clusters are counted in arrays by label, so labels must not be astronomically large.
const MAX_LABEL: usize = 1 << 28;
/// Rows between two looks at whether to stop.
const CHECK_EVERY: usize = 1 << 16;

/// Labels as they come, -1 or 2^32 - 1 for a row that is not eligible.
#[derive(Clone, Copy, Debug)]
pub enum Labels<'a> {
    U32(&'a [u32]),
    I32(&'a [i32]),
    I64(&'a [i64]),
}

impl Labels<'_> {
    pub fn len(&self) -> usize {
        match self {
            Labels::U32(labels) => labels.len(),
            Labels::I32(labels) => labels.len(),
            Labels::I64(labels) => labels.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn get(&self, row: usize) -> Result<Option<usize>> {
        let label = match self {
            Labels::U32(labels) => i64::from(labels[row]),
            Labels::I32(labels) => i64::from(labels[row]),
            Labels::I64(labels) => labels[row],
        };
        match usize::try_from(label) {
            Ok(label) if label < MAX_LABEL => Ok(Some(label)),
            _ if label == -1 || label == i64::from(NOT_ELIGIBLE) => Ok(None),
            _ => Err(Error::input(format!("row {row}: label {label}, expected 0 to {}, or -1", MAX_LABEL - 1))),
        }
    }
}

/// Floats or integers, one a row, as they come.
#[derive(Clone, Copy, Debug)]
pub enum Column<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    I32(&'a [i32]),
    I64(&'a [i64]),
}

impl Column<'_> {
    pub fn len(&self) -> usize {
        match self {
            Column::F32(values) => values.len(),
            Column::F64(values) => values.len(),
            Column::I32(values) => values.len(),
            Column::I64(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn float(&self, row: usize) -> f64 {
        match self {
            Column::F32(values) => f64::from(values[row]),
            Column::F64(values) => values[row],
            Column::I32(values) => f64::from(values[row]),
            Column::I64(values) => values[row] as f64,
        }
    }

    #[inline]
    fn cost(&self, row: usize) -> Result<u64> {
        let cost = match self {
            Column::I32(values) => i64::from(values[row]),
            Column::I64(values) => values[row],
            _ => return Err(Error::input("costs: expected int32 or int64")),
        };
        u64::try_from(cost).map_err(|_| Error::input(format!("row {row}: cost {cost}, expected at least 0")))
    }
}

/// Who comes first inside a cluster.
#[derive(Clone, Copy, Debug)]
pub enum Priority<'a> {
    /// Smallest hash of (seed, row): uniform without replacement.
    Hash,
    /// Without replacement in proportion to weights (Efraimidis and Spirakis, 2006); weight 0 is never drawn.
    Weights(Column<'a>),
    /// Highest value.
    Values(Column<'a>),
}

/// Bits of a float that sort as the float does (not for NaN).
#[inline]
fn sortable(x: f64) -> u64 {
    // The sum makes -0 equal to 0.
    let bits = (x + 0.0).to_bits();
    if bits >> 63 == 1 {
        !bits
    } else {
        bits | 1 << 63
    }
}

impl Priority<'_> {
    fn len(&self) -> Option<usize> {
        match self {
            Priority::Hash => None,
            Priority::Weights(column) | Priority::Values(column) => Some(column.len()),
        }
    }

    /// A row's key, smaller first; `None` for a row that is never drawn.
    #[inline]
    fn key(&self, row: usize, seed: u64) -> Result<Option<u64>> {
        match self {
            Priority::Hash => Ok(Some(row_hash(seed, row as u64))),
            Priority::Weights(column) => {
                let weight = column.float(row);
                if !(weight >= 0.0 && weight.is_finite()) {
                    return Err(Error::input(format!("row {row}: weight {weight}, expected a finite number >= 0")));
                }
                // u^(1/w) descending is -ln(u)/w ascending, and that does not underflow.
                let key = || sortable(-unit(row_hash(seed, row as u64)).ln() / weight);
                Ok((weight > 0.0).then(key))
            }
            Priority::Values(column) => {
                let value = column.float(row);
                if value.is_nan() {
                    return Err(Error::input(format!("row {row}: priority NaN, expected a number")));
                }
                Ok(Some(!sortable(value)))
            }
        }
    }
}

/// The eligible rows with their label and key.
fn each_row(
    labels: Labels,
    priority: Priority,
    seed: u64,
    supervisor: &Supervisor,
    mut visit: impl FnMut(usize, usize, u64) -> Result<()>,
) -> Result<()> {
    for row in 0..labels.len() {
        if row % CHECK_EVERY == 0 {
            supervisor.check()?;
        }
        if let Some(label) = labels.get(row)? {
            if let Some(key) = priority.key(row, seed)? {
                visit(row, label, key)?;
            }
        }
    }
    Ok(())
}

/// Rows chosen, in the order described above. Fewer than `budget` when fewer are eligible. With `costs` the budget is
/// a sum of costs: the longest prefix of the order that does not exceed it, ending before the first row that would
/// (later, cheaper rows are not tried, so that the answer stays a prefix); all rows are then kept in memory.
pub fn resample(
    labels: Labels,
    budget: u64,
    seed: u64,
    priority: Priority,
    costs: Option<Column>,
    supervisor: &Supervisor,
) -> Result<Vec<i64>> {
    for (name, len) in [("weights or priority", priority.len()), ("costs", costs.map(|c| c.len()))] {
        if len.is_some_and(|len| len != labels.len()) {
            let expected = labels.len();
            return Err(Error::input(format!("{name}: expected one a row, {expected}; got {}", len.unwrap_or(0))));
        }
    }
    let row_seed = derive(seed, "rows");
    let mut counts: Vec<u64> = Vec::new();
    each_row(labels, priority, row_seed, supervisor, |row, label, _| {
        costs.map_or(Ok(0), |costs| costs.cost(row))?;
        if label >= counts.len() {
            counts.resize(label + 1, 0);
        }
        counts[label] += 1;
        Ok(())
    })?;
    let cluster_seed = derive(seed, "clusters");
    let mut order: Vec<usize> = (0..counts.len()).filter(|&label| counts[label] > 0).collect();
    order.sort_unstable_by_key(|&label| (row_hash(cluster_seed, label as u64), label));

    let rows_wanted = if costs.is_some() { u64::MAX } else { budget };
    let quotas = quotas(&counts, &order, rows_wanted);
    let mut drawn: Vec<BinaryHeap<(u64, usize)>> = (0..counts.len()).map(|_| BinaryHeap::new()).collect();
    each_row(labels, priority, row_seed, supervisor, |row, label, key| {
        let (heap, quota) = (&mut drawn[label], quotas[label] as usize);
        if heap.len() < quota {
            heap.push((key, row));
        } else if let Some(mut worst) = heap.peek_mut() {
            if (key, row) < *worst {
                *worst = (key, row);
            }
        }
        Ok(())
    })?;
    let sorted: Vec<Vec<(u64, usize)>> = drawn.into_iter().map(BinaryHeap::into_sorted_vec).collect();
    round_robin(&sorted, order, budget, costs)
}

/// Equal quotas by water-filling: every cluster gives `level` rows, or all it has; what the budget still holds goes to
/// one row each of the first clusters in `order` that have more.
fn quotas(counts: &[u64], order: &[usize], budget: u64) -> Vec<u64> {
    let filled = |level: u64| order.iter().fold(0u64, |sum, &k| sum.saturating_add(counts[k].min(level)));
    let (mut level, mut above) = (0, counts.iter().max().map_or(1, |max| max + 1));
    while above - level > 1 {
        let middle = level + (above - level) / 2;
        if filled(middle) <= budget {
            level = middle;
        } else {
            above = middle;
        }
    }
    let mut quotas: Vec<u64> = counts.iter().map(|&count| count.min(level)).collect();
    let rest = usize::try_from(budget - filled(level)).unwrap_or(usize::MAX);
    order.iter().filter(|&&k| counts[k] > level).take(rest).for_each(|&k| quotas[k] += 1);
    quotas
}

fn round_robin(
    sorted: &[Vec<(u64, usize)>],
    mut order: Vec<usize>,
    budget: u64,
    costs: Option<Column>,
) -> Result<Vec<i64>> {
    let mut chosen = Vec::new();
    let mut spent = 0u64;
    for round in 0.. {
        order.retain(|&k| sorted[k].len() > round);
        if order.is_empty() {
            break;
        }
        for &k in &order {
            let row = sorted[k][round].1;
            if let Some(costs) = costs {
                spent = spent.saturating_add(costs.cost(row)?);
                if spent > budget {
                    return Ok(chosen);
                }
            }
            chosen.push(row as i64);
        }
    }
    Ok(chosen)
}

/// The `n` rows with the smallest hash of (seed, row), of those that are offered one after the other.
pub struct BottomK {
    n: usize,
    seed: u64,
    kept: BinaryHeap<(u64, u64)>,
}

impl BottomK {
    pub fn new(n: usize, seed: u64) -> BottomK {
        BottomK { n, seed, kept: BinaryHeap::new() }
    }

    #[inline]
    pub fn offer(&mut self, row: u64) {
        let entry = (row_hash(self.seed, row), row);
        if self.kept.len() < self.n {
            self.kept.push(entry);
        } else if let Some(mut worst) = self.kept.peek_mut() {
            if entry < *worst {
                *worst = entry;
            }
        }
    }

    /// The rows kept, ascending; all that were offered if they are fewer than `n`.
    pub fn rows(self) -> Vec<u64> {
        let mut chosen: Vec<u64> = self.kept.into_iter().map(|(_, row)| row).collect();
        chosen.sort_unstable();
        chosen
    }
}

/// The `n` of `rows` with the smallest hash of (seed, row), ascending; all of them if they are fewer.
pub fn bottom_k(rows: impl Iterator<Item = u64>, n: usize, seed: u64, supervisor: &Supervisor) -> Result<Vec<u64>> {
    let mut kept = BottomK::new(n, seed);
    for (i, row) in rows.enumerate() {
        if i % CHECK_EVERY == 0 {
            supervisor.check()?;
        }
        kept.offer(row);
    }
    Ok(kept.rows())
}

#[cfg(test)]
mod tests;
