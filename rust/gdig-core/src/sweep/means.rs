//! The mean influence of a pool on each seed.

use std::ops::Range;
use std::sync::Mutex;

use super::shard::each_shard;
use super::spans;
use super::Influence;
use crate::interrupt::Supervisor;
use crate::parallel::{in_order, thread_pool};
use crate::store::Store;
use crate::Result;

/// The mean over the valid rows of the influence on each seed; 0 without valid rows. Each span is summed in float64 in
/// the order of its rows, and the sums of the spans are added in order.
pub fn seed_means(store: &Store, supervisor: &Supervisor) -> Result<Vec<f64>> {
    let influence = Influence::sweep(store)?;
    let (rows, n_seeds) = (influence.len(), influence.n_seeds());
    let sums: Mutex<Vec<(usize, u64, Vec<f64>)>> = Mutex::new(Vec::new());
    let add = |span: Range<usize>| {
        supervisor.check()?;
        let first = span.start;
        let (mut n, mut sum) = (0, vec![0f64; n_seeds]);
        each_shard(store, span, |shard, rows| {
            shard.check_seeds(n_seeds)?;
            for row in rows.filter(|&row| shard.is_valid(row)) {
                let values = shard.influence(row);
                if let Some(seed) = values.iter().position(|x| !x.is_finite()) {
                    return Err(influence.bad(row, seed, values[seed]));
                }
                sum.iter_mut().zip(values).for_each(|(sum, &x)| *sum += f64::from(x));
                n += 1;
            }
            Ok(())
        })?;
        sums.lock().expect("no thread panics with the lock").push((first, n, sum));
        Ok(())
    };
    thread_pool(0)?.install(|| in_order(spans(rows), add))?;
    let mut sums = sums.into_inner().expect("no thread panics with the lock");
    sums.sort_unstable_by_key(|&(first, ..)| first);
    let (mut valid, mut means) = (0u64, vec![0f64; n_seeds]);
    for (_, n, sum) in sums {
        valid += n;
        means.iter_mut().zip(sum).for_each(|(mean, sum)| *mean += sum);
    }
    means.iter_mut().for_each(|mean| *mean /= valid.max(1) as f64);
    Ok(means)
}
