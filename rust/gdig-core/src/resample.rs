//! Even draws from clusters: quotas, and a cluster that runs short passes its rest on.
//!
//! The rows of a cluster have an order of their own (a seeded hash, a weighted one, or a value). Row number r of it, from
//! 0, has its place at (r + 1/2) / w in the order of all rows, where w is the cluster's weight; ties go by a hashed order
//! of the clusters. With equal weights that is a round-robin. One pass keeps the first rows of each cluster, as many as
//! the cluster may still give: memory for the clusters and the rows drawn, whatever the number of rows.

mod arrays;
mod bottom_k;
mod keep;
mod quotas;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Mutex;

pub use arrays::{sortable, Arrays, Column, Labels, Priority, MAX_LABEL, NOT_ELIGIBLE};
pub use bottom_k::{bottom_k, BottomK};
use keep::{Kept, Limits};
pub use quotas::Quotas;
use quotas::{fill, Clusters};

use crate::interrupt::Supervisor;
use crate::parallel::{in_order, thread_pool};
use crate::Result;

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

/// Up to `budget` rows, in the order described above; fewer when fewer are eligible. Equal quotas take one pass over the
/// population; the others two, as they have to know first how large the clusters are.
pub fn resample(
    population: &impl Population,
    quotas: Quotas,
    budget: u64,
    seed: u64,
    supervisor: &Supervisor,
) -> Result<Vec<i64>> {
    let fixed;
    let limits = if quotas == Quotas::Equal {
        Limits::Level { budget }
    } else {
        let counted = scan(population, Limits::Fixed(&[]), supervisor)?;
        fixed = fill(&Clusters::new(&counted.counts, quotas, seed), budget).quotas;
        Limits::Fixed(&fixed)
    };
    let kept = scan(population, limits, supervisor)?;
    let counts = kept.counts.clone();
    let clusters = Clusters::new(&counts, quotas, seed);
    let filled = fill(&clusters, budget);
    Ok(clusters.order_of(kept.sorted(&filled.quotas)).into_iter().map(|(_, row)| row.row as i64).collect())
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
    let counted = scan(population, Limits::Fixed(&[]), supervisor)?;
    let clusters = Clusters::new(&counted.counts, quotas, seed);
    let n: u64 = counted.counts.iter().sum();
    // As many rows as the budget takes at the mean cost, and some more.
    let share = (budget as f64 / counted.cost.max(1) as f64).min(1.0);
    let mut rows = (share * n as f64 * 1.05) as u64 + clusters.len() as u64 + 64;
    loop {
        let filled = fill(&clusters, rows.min(n));
        // Below this place nothing is missing: one row more of each cluster is kept than lie there.
        let complete_to = if rows >= n { f64::INFINITY } else { filled.level };
        let reach = |k: usize| ((complete_to * clusters.weight(k)).ceil() as u64).saturating_add(1);
        let limits: Vec<u64> = counted.counts.iter().enumerate().map(|(k, &count)| count.min(reach(k))).collect();
        let kept = scan(population, Limits::Fixed(&limits), supervisor)?;
        let (mut chosen, mut spent) = (Vec::new(), 0u64);
        for (place, row) in clusters.order_of(kept.sorted(&limits)) {
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

/// One pass over the population.
fn scan<'a>(population: &impl Population, limits: Limits<'a>, supervisor: &Supervisor) -> Result<Kept<'a>> {
    let n = population.len();
    // What each thread has kept so far: which rows it came to see does not change what is kept of all.
    let resting: Mutex<Vec<Kept>> = Mutex::new(Vec::new());
    let read = |start: usize| {
        supervisor.check()?;
        let rested = resting.lock().expect("no thread panics with the lock").pop();
        let mut kept = rested.unwrap_or_else(|| Kept::new(limits));
        population.each(start..n.min(start + CHECK_EVERY), &mut |row| kept.offer(row))?;
        resting.lock().expect("no thread panics with the lock").push(kept);
        Ok(())
    };
    let mut starts = (0..n).step_by(CHECK_EVERY);
    if n <= CHECK_EVERY {
        starts.try_for_each(read)?;
    } else {
        thread_pool(0)?.install(|| in_order(starts, read))?;
    }
    let rested = resting.into_inner().expect("no thread panics with the lock");
    Ok(rested.into_iter().reduce(Kept::merge).unwrap_or_else(|| Kept::new(limits)))
}
