//! Even draws from clusters. Each cluster has a quota. If a cluster runs short, the others share the rest.
//!
//! Each cluster orders its own rows by a hash, a weighted hash or a value. Let w be the weight of the
//! cluster. Row r of its order, counted from 0, has the place (r + 1/2) / w in the order of all rows. Ties go by a hashed order of the
//! clusters. With equal weights the clusters take turns. One pass keeps the first rows of each cluster, as many as the
//! cluster may still give. So memory grows with the clusters and the drawn rows, not with all rows.

mod arrays;
mod bottom_k;
mod count;
mod heaps;
mod quotas;
mod slots;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Mutex;

pub use arrays::{sortable, Arrays, Column, Labels, Priority, MAX_LABEL, NOT_ELIGIBLE};
pub use bottom_k::{bottom_k, BottomK};
use count::Counting;
pub use count::Sizes;
use heaps::{Caps, Heaps};
pub use quotas::Quotas;
pub(crate) use quotas::{fill, Clusters};

use crate::interrupt::Supervisor;
use crate::parallel::{in_order, thread_pool};
use crate::{Error, Limit, Result};

/// Rows between two questions whether to stop. Fewer rows are read on one thread.
const CHECK_EVERY: usize = 1 << 16;

/// A row that may be drawn.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub row: u64,
    /// The cluster of the row.
    pub label: usize,
    /// The order in the cluster: smaller keys first, ties by row number.
    pub key: u64,
    /// What the row takes of a `Limit::Tokens`.
    pub cost: u64,
}

/// The rows to draw from. Any thread reads any span.
pub trait Population: Sync {
    /// The number of rows, eligible or not.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Call `visit` for each eligible row of `span`, in order.
    fn each(&self, span: Range<usize>, visit: &mut impl FnMut(Row)) -> Result<()>;
}

/// What a thread collects from the rows that it reads. After all collectors are merged, it must not matter which thread
/// read which row.
trait Collector: Send {
    fn offer(&mut self, row: Row);
    fn merge(self, other: Self) -> Self;
}

/// The clusters that have an eligible row. Takes one pass over the population.
pub fn sizes(population: &impl Population, supervisor: &Supervisor) -> Result<Sizes> {
    Ok(scan(population, Counting::default, supervisor)?.sizes())
}

/// Rows in the order described above, as many as `limit` allows; fewer when fewer are eligible.
///
/// `Limit::Rows`: equal quotas take one pass over the population. The other quotas take two, because they have to know
/// how large the clusters are.
///
/// `Limit::Tokens` limits the sum of the costs. The rows are the longest beginning of the order of all eligible rows
/// whose costs are within the limit. Cheaper rows behind it are not tried, so that a larger limit only adds rows. One
/// pass counts; another one draws, or a few of them where costs are uneven.
pub fn resample(
    population: &impl Population,
    quotas: Quotas,
    limit: Limit,
    random_seed: u64,
    supervisor: &Supervisor,
) -> Result<Vec<i64>> {
    match limit {
        Limit::Rows(n) => resample_rows(population, quotas, n, random_seed, supervisor),
        Limit::Tokens(budget) => resample_costs(population, quotas, budget, random_seed, supervisor),
    }
}

fn resample_rows(
    population: &impl Population,
    quotas: Quotas,
    n: u64,
    random_seed: u64,
    supervisor: &Supervisor,
) -> Result<Vec<i64>> {
    let (sizes, rows, shares);
    if quotas == Quotas::Equal {
        (sizes, rows) = scan(population, || Heaps::new(Caps::Level { budget: n }), supervisor)?.sorted();
        shares = fill(&Clusters::new(&sizes.labels, &sizes.counts, quotas, random_seed), n).quotas;
    } else {
        sizes = self::sizes(population, supervisor)?;
        shares = fill(&Clusters::new(&sizes.labels, &sizes.counts, quotas, random_seed), n).quotas;
        rows = first_rows(population, &sizes, &shares, supervisor)?;
    }
    let clusters = Clusters::new(&sizes.labels, &sizes.counts, quotas, random_seed);
    Ok(clusters.order_of(&rows, &shares).into_iter().map(|(_, row)| row.row as i64).collect())
}

fn resample_costs(
    population: &impl Population,
    quotas: Quotas,
    budget: u64,
    random_seed: u64,
    supervisor: &Supervisor,
) -> Result<Vec<i64>> {
    let sizes = sizes(population, supervisor)?;
    let clusters = Clusters::new(&sizes.labels, &sizes.counts, quotas, random_seed);
    let n: u64 = sizes.counts.iter().sum();
    // As many rows as the budget takes at the mean cost, and some more.
    let share = (budget as f64 / sizes.cost.max(1) as f64).min(1.0);
    let mut asked = (share * n as f64 * 1.05) as u64 + clusters.len() as u64 + 64;
    loop {
        let filled = fill(&clusters, asked.min(n));
        // Below this place no row is missing: one row more of each cluster is read than lies there.
        let complete_to = if asked >= n { f64::INFINITY } else { filled.level };
        let reach = |k: usize| ((complete_to * clusters.weight(k)).ceil() as u64).saturating_add(1);
        let caps: Vec<u64> = sizes.counts.iter().enumerate().map(|(k, &count)| count.min(reach(k))).collect();
        let rows = first_rows(population, &sizes, &caps, supervisor)?;
        let (mut drawn, mut spent) = (Vec::new(), 0u64);
        for (place, row) in clusters.order_of(&rows, &caps) {
            if place >= complete_to {
                break;
            }
            spent = spent.saturating_add(row.cost);
            if spent > budget {
                return Ok(drawn);
            }
            drawn.push(row.row as i64);
        }
        if asked >= n {
            return Ok(drawn);
        }
        asked = asked.saturating_mul(2);
    }
}

/// The first rows of each cluster, at most its cap, in one pass over the population.
fn first_rows(
    population: &impl Population,
    sizes: &Sizes,
    caps: &[u64],
    supervisor: &Supervisor,
) -> Result<Vec<Vec<Row>>> {
    let (seen, rows) = scan(population, || Heaps::new(Caps::Fixed { sizes, caps }), supervisor)?.sorted();
    if seen != *sizes {
        return Err(Error::input(
            "labels, or what makes rows eligible: changed while they were read; run again when nothing writes to them",
        ));
    }
    Ok(rows)
}

/// One pass over the population.
fn scan<P: Collector>(population: &impl Population, new: impl Fn() -> P + Sync, supervisor: &Supervisor) -> Result<P> {
    let n = population.len();
    let resting: Mutex<Vec<P>> = Mutex::new(Vec::new());
    let read = |start: usize| {
        supervisor.check()?;
        let rested = resting.lock().expect("no thread panics with the lock").pop();
        let mut collector = rested.unwrap_or_else(&new);
        population.each(start..n.min(start + CHECK_EVERY), &mut |row| collector.offer(row))?;
        resting.lock().expect("no thread panics with the lock").push(collector);
        Ok(())
    };
    let mut starts = (0..n).step_by(CHECK_EVERY);
    if n <= CHECK_EVERY {
        starts.try_for_each(read)?;
    } else {
        thread_pool(0)?.install(|| in_order(starts, read))?;
    }
    let rested = resting.into_inner().expect("no thread panics with the lock");
    Ok(rested.into_iter().reduce(P::merge).unwrap_or_else(new))
}
