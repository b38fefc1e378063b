//! Even draws from clusters: quotas, and a cluster that runs short passes its rest on.
//!
//! The rows of a cluster have an order of their own (a seeded hash, a weighted one, or a value). Row number r of it, from
//! 0, has its place at (r + 1/2) / w in the order of all rows, where w is the cluster's weight; ties go by a hashed order
//! of the clusters. With equal weights that is a round-robin. One pass keeps the first rows of each cluster, as many as
//! the cluster may still give: memory for the clusters and the rows drawn, whatever the number of rows.

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
use crate::{Error, Result};

/// Rows between two looks at whether to stop, and the least for which threads are started.
const CHECK_EVERY: usize = 1 << 16;

/// A row that may be drawn.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub row: u64,
    /// Its cluster.
    pub label: usize,
    /// Its place in the cluster: smaller first, ties by row number.
    pub key: u64,
    /// What it takes of a budget of costs.
    pub cost: u64,
}

/// Rows to draw from, read in spans by any thread.
pub trait Population: Sync {
    /// Rows, eligible or not.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Call `visit` for each eligible row of `span`, in order.
    fn each(&self, span: Range<usize>, visit: &mut impl FnMut(Row)) -> Result<()>;
}

/// What a thread makes of the rows that it sees. Which of them it came to see must not matter once all are merged.
trait Part: Send {
    fn offer(&mut self, row: Row);
    fn merge(self, other: Self) -> Self;
}

/// The clusters with an eligible row, in one pass over the population.
pub fn sizes(population: &impl Population, supervisor: &Supervisor) -> Result<Sizes> {
    Ok(scan(population, Counting::default, supervisor)?.sizes())
}

/// Up to `budget` rows, in the order described above; fewer when fewer are eligible. Equal quotas take one pass over the
/// population; the others two, as they have to know first how large the clusters are.
pub fn resample(
    population: &impl Population,
    quotas: Quotas,
    budget: u64,
    seed: u64,
    supervisor: &Supervisor,
) -> Result<Vec<i64>> {
    let (sizes, kept, shares);
    if quotas == Quotas::Equal {
        (sizes, kept) = scan(population, || Heaps::new(Caps::Level { budget }), supervisor)?.sorted();
        shares = fill(&Clusters::new(&sizes.labels, &sizes.counts, quotas, seed), budget).quotas;
    } else {
        sizes = self::sizes(population, supervisor)?;
        shares = fill(&Clusters::new(&sizes.labels, &sizes.counts, quotas, seed), budget).quotas;
        kept = kept_of(population, &sizes, &shares, supervisor)?;
    }
    let clusters = Clusters::new(&sizes.labels, &sizes.counts, quotas, seed);
    Ok(clusters.order_of(&kept, &shares).into_iter().map(|(_, row)| row.row as i64).collect())
}

/// The longest beginning of the order of all eligible rows whose costs are within `budget`: it ends before the first row
/// that would exceed it (cheaper rows after that are not tried, so that a larger budget only adds rows). Takes a pass
/// to count, and one or, where costs are uneven, a few to draw.
pub fn resample_costs(
    population: &impl Population,
    quotas: Quotas,
    budget: u64,
    seed: u64,
    supervisor: &Supervisor,
) -> Result<Vec<i64>> {
    let sizes = sizes(population, supervisor)?;
    let clusters = Clusters::new(&sizes.labels, &sizes.counts, quotas, seed);
    let n: u64 = sizes.counts.iter().sum();
    // As many rows as the budget takes at the mean cost, and some more.
    let share = (budget as f64 / sizes.cost.max(1) as f64).min(1.0);
    let mut rows = (share * n as f64 * 1.05) as u64 + clusters.len() as u64 + 64;
    loop {
        let filled = fill(&clusters, rows.min(n));
        // Below this place nothing is missing: one row more of each cluster is kept than lie there.
        let complete_to = if rows >= n { f64::INFINITY } else { filled.level };
        let reach = |k: usize| ((complete_to * clusters.weight(k)).ceil() as u64).saturating_add(1);
        let limits: Vec<u64> = sizes.counts.iter().enumerate().map(|(k, &count)| count.min(reach(k))).collect();
        let kept = kept_of(population, &sizes, &limits, supervisor)?;
        let (mut chosen, mut spent) = (Vec::new(), 0u64);
        for (place, row) in clusters.order_of(&kept, &limits) {
            if place >= complete_to {
                break;
            }
            spent = spent.saturating_add(row.cost);
            if spent > budget {
                return Ok(chosen);
            }
            chosen.push(row.row as i64);
        }
        if rows >= n {
            return Ok(chosen);
        }
        rows = rows.saturating_mul(2);
    }
}

/// The first rows of each cluster, at most its limit, in one pass over the population.
fn kept_of(
    population: &impl Population,
    sizes: &Sizes,
    limits: &[u64],
    supervisor: &Supervisor,
) -> Result<Vec<Vec<Row>>> {
    let (seen, kept) = scan(population, || Heaps::new(Caps::Fixed { sizes, limits }), supervisor)?.sorted();
    if seen != *sizes {
        return Err(Error::input("labels, or what makes rows eligible: changed while they were read"));
    }
    Ok(kept)
}

/// One pass over the population.
fn scan<P: Part>(population: &impl Population, new: impl Fn() -> P + Sync, supervisor: &Supervisor) -> Result<P> {
    let n = population.len();
    let resting: Mutex<Vec<P>> = Mutex::new(Vec::new());
    let read = |start: usize| {
        supervisor.check()?;
        let rested = resting.lock().expect("no thread panics with the lock").pop();
        let mut part = rested.unwrap_or_else(&new);
        population.each(start..n.min(start + CHECK_EVERY), &mut |row| part.offer(row))?;
        resting.lock().expect("no thread panics with the lock").push(part);
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
