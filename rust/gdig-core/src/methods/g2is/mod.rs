//! The gradient walk of G2IS (arXiv 2502.11062, algorithm 1).
//!
//! For each direction K, of unit length: start at the free row with the highest cosine to K, if it is above 0. Then go,
//! again and again, to the nearest neighbour of the last row that is free and fits; if none of its neighbours does, to the
//! free row with the highest cosine to K that fits; if there is none, the walk has ended. A row g fits a set with the sum
//! s of its rows at unit length, if its cosine to none of the set is below 0, and cos(s + g, K) >= ratio cos(s, K).
//!
//! What a walk that has ended leaves of its share goes to the others, in proportion to their shares, until all have ended
//! or nothing is left. (The set of free rows only shrinks, so a walk that has ended could not go on later.)
//!
//! Nothing is computed twice: a row remembers how many of the set it has been compared with and the sum of these
//! products, which is s.g once all are there; one product below 0 and it is out for this direction. So a direction costs
//! at most (rows tried) x (rows chosen) products, and a row tried again only those with what was added since.

mod options;
mod walk;

pub use options::{Options, Picked};

use crate::interrupt::Supervisor;
use crate::neighbours::Graph;
use crate::parallel::thread_pool;
use crate::rows::units::{valid_rows, AnyUnit};
use crate::rows::Source;
use crate::{Error, Result};
use walk::{Ground, Walk};

pub fn g2is(source: &Source, graph: &Graph, options: &Options, supervisor: &Supervisor) -> Result<Picked> {
    let (dim, n) = (source.dim(), source.len());
    graph.check(n)?;
    options.costs.check(n)?;
    check_directions(options, dim)?;
    let valid = valid_rows(source, supervisor)?;
    thread_pool(options.n_threads)?.install(|| {
        let ground = Ground { source, units: AnyUnit::new(source)?, graph, valid, options, supervisor };
        let mut walks: Vec<Walk> = options.directions.chunks_exact(dim).map(Walk::new).collect();
        let (mut free, mut picked) = (vec![true; n], Picked::default());
        let mut left = options.budget;
        loop {
            let weights: Vec<f64> =
                walks.iter().zip(options.weights).map(|(w, &v)| if w.ended { 0.0 } else { v }).collect();
            if left == 0 || weights.iter().all(|&weight| weight == 0.0) {
                break;
            }
            walks.iter_mut().zip(shares(left, &weights)).for_each(|(walk, share)| walk.share += share);
            let mut someone_ended = false;
            for (number, walk) in walks.iter_mut().enumerate().filter(|(_, walk)| !walk.ended && walk.share > 0) {
                walk.go(number as u32, &ground, &mut free, &mut picked)?;
                someone_ended |= walk.ended;
            }
            // A walk that has not ended holds on to what is left of its share, too little for its next row.
            left = walks.iter_mut().filter(|walk| walk.ended).map(|walk| std::mem::take(&mut walk.share)).sum();
            if !someone_ended {
                break;
            }
        }
        picked.ended = walks.iter().map(|walk| walk.ended).collect();
        Ok(picked)
    })
}

fn check_directions(options: &Options, dim: usize) -> Result<()> {
    let (n, weights) = (options.directions.len() / dim, options.weights);
    let unit = |k: &[f64]| (k.iter().map(|k| k * k).sum::<f64>() - 1.0).abs() < 1e-6;
    if n == 0 || n * dim != options.directions.len() || !options.directions.chunks_exact(dim).all(unit) {
        return Err(Error::input(format!(
            "directions: expected unit vectors [V, {dim}], as the rows have {dim} columns"
        )));
    }
    let sound = weights.len() == n && weights.iter().all(|&w| w >= 0.0) && weights.iter().sum::<f64>() > 0.0;
    if !sound || !weights.iter().sum::<f64>().is_finite() {
        return Err(Error::input(format!("weights: expected {n} numbers of at least 0, not all 0; got {weights:?}")));
    }
    if !(0.0..=1.0).contains(&options.ratio) {
        return Err(Error::input(format!("ratio: expected 0 to 1, got {}", options.ratio)));
    }
    Ok(())
}

/// `budget` in proportion to `weights`, rounded down; what that leaves goes to the largest remainders, of equal ones to the
/// first.
pub fn shares(budget: u64, weights: &[f64]) -> Vec<u64> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| budget as f64 * (weight / sum)).collect();
    let mut shares: Vec<u64> = exact.iter().map(|share| share.floor() as u64).collect();
    let mut order: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] > 0.0).collect();
    order.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()));
    let left = budget.saturating_sub(shares.iter().sum());
    order.iter().cycle().take(left as usize).for_each(|&i| shares[i] += 1);
    shares
}
