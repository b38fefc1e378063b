//! The gradient walk of G2IS (arXiv 2502.11062, algorithm 1).
//!
//! There is one walk for each direction K of unit length:
//!
//! 1. The walk starts at the free row with the highest cosine to K, if that cosine is above 0.
//! 2. The next row is the nearest neighbour of the last row that is free and fits.
//! 3. If no neighbour fits, the next row is the fitting free row with the highest cosine to K.
//! 4. If no row fits, the walk has ended.
//!
//! Let s be the sum of the rows of a walk at unit length. A row g fits if its cosine to each row of the walk is at
//! least 0, and cos(s + g, K) >= ratio cos(s, K).
//!
//! The share that an ended walk has not spent goes to the other walks, in proportion to their weights. That ends when
//! all walks have ended or nothing is left. Free rows only become fewer, so an ended walk could not go on later.
//!
//! No product is computed twice. For each row the walk remembers how many of its rows were compared with the row. It
//! also remembers the sum of their products, which in the end is s.g. A product below 0 rules the row out for this direction.
//! So a direction costs at most (rows tried) x (rows picked) products.

mod options;
mod walk;

pub use options::{Options, Picked};

use super::costs::Costs;
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
    let costs = Costs::new(options.limit, options.tokens, n)?;
    check_directions(options, dim)?;
    let valid = valid_rows(source, supervisor)?;
    thread_pool(options.n_threads)?.install(|| {
        let ground = Ground { source, units: AnyUnit::new(source)?, graph, valid, options, costs, supervisor };
        let mut walks: Vec<Walk> = options.directions.chunks_exact(dim).map(Walk::new).collect();
        let (mut free, mut picked) = (vec![true; n], Picked::default());
        let mut remaining = options.limit.amount();
        loop {
            let weights: Vec<f64> =
                walks.iter().zip(options.weights).map(|(w, &v)| if w.ended { 0.0 } else { v }).collect();
            if remaining == 0 || weights.iter().all(|&weight| weight == 0.0) {
                break;
            }
            walks.iter_mut().zip(shares(remaining, &weights)).for_each(|(walk, share)| walk.share += share);
            let mut someone_ended = false;
            for (number, walk) in walks.iter_mut().enumerate().filter(|(_, walk)| !walk.ended && walk.share > 0) {
                walk.go(number as u32, &ground, &mut free, &mut picked)?;
                someone_ended |= walk.ended;
            }
            // A walk that has not ended keeps the rest of its share, which is too little for its next row.
            remaining = walks.iter_mut().filter(|walk| walk.ended).map(|walk| std::mem::take(&mut walk.share)).sum();
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
        return Err(Error::input(format!("weights: expected {n} numbers of at least 0, not all 0, got {weights:?}")));
    }
    if !(0.0..=1.0).contains(&options.ratio) {
        return Err(Error::input(format!("ratio: expected 0 to 1, got {}", options.ratio)));
    }
    Ok(())
}

/// Shares of `budget` in proportion to `weights`, rounded down. The rest goes to the largest remainders, and among
/// equal ones to the first.
pub fn shares(budget: u64, weights: &[f64]) -> Vec<u64> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| budget as f64 * (weight / sum)).collect();
    let mut shares: Vec<u64> = exact.iter().map(|share| share.floor() as u64).collect();
    let mut order: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] > 0.0).collect();
    order.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()));
    let remainder = budget.saturating_sub(shares.iter().sum());
    order.iter().cycle().take(remainder as usize).for_each(|&i| shares[i] += 1);
    shares
}
