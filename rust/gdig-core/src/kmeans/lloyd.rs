//! Lloyd's iterations.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Range;

use rayon::prelude::*;

use super::ahead::{with_pages_ahead, Ahead};
use super::arch::{Assigner, Scratch};
use super::checkpoint::{Checkpoint, State};
use super::source::{squared_norm, Block, Reader, RowSet};
use super::tally::{BadRow, Tally};
use super::{Fitted, Options};
use crate::interrupt::{Progress, Supervisor};
use crate::parallel::in_order;
use crate::Result;

/// Rows whose sums are taken together in float32: at least this many, and 4 K, so that adding up the chunks costs
/// less than adding up the rows. Fixed by K alone: the bits of the result depend on it.
const CHUNK_ROWS: usize = 8192;
/// Most bytes that the sums of chunks under way may take together; bounds how many run at once, not the result.
const PARTIAL_BYTES: usize = 1 << 30;
/// Most empty clusters that one iteration fills again.
const MAX_RESEEDED: usize = 1024;

/// A row far from its centroid. The greatest is the farthest; of equally far ones, the first row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Far {
    /// Squared distance, as bits: for numbers that are not negative they sort alike.
    distance: u32,
    position: Reverse<usize>,
    label: u32,
}

/// What one pass over rows finds.
#[derive(Default)]
struct Pass<T> {
    /// Sums of each centroid's rows, [K, dim].
    sums: Vec<T>,
    counts: Vec<u64>,
    inertia: f64,
    /// The farthest rows, for clusters that are empty.
    far: Vec<Far>,
}

/// The state before the first iteration.
pub fn start(mut centroids: Vec<f32>, dim: usize, options: &Options) -> State {
    if options.unit_normalize {
        centroids.chunks_exact_mut(dim).for_each(normalize);
    }
    let counts = vec![0; options.n_clusters];
    State { centroids, counts, n_iter: 0, inertia: f64::INFINITY, ended: false }
}

pub fn run(
    rows: RowSet,
    mut state: State,
    options: &Options,
    checkpoint: Option<&Checkpoint>,
    supervisor: &Supervisor,
) -> Result<Fitted> {
    let dim = rows.source.dim();
    let mut partials = Vec::new();
    while !state.ended && state.n_iter < options.max_iter {
        let mut found = pass(rows, &state.centroids, options, &mut partials, supervisor)?;
        let reseeded = reseed(rows, &mut found)?;
        let updated = update(&found, &state.centroids, dim, options.unit_normalize);
        let squares = updated.iter().zip(&state.centroids).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        let shift = squares.sum::<f64>().sqrt();
        // The first iteration has nothing to compare with; after a reseeding the next one is bound to gain.
        let gain = state.inertia - found.inertia;
        let slow = state.inertia.is_finite() && reseeded == 0 && gain <= options.tol * state.inertia;
        let Pass { counts, inertia, .. } = found;
        let (n_iter, ended) = (state.n_iter + 1, slow || shift == 0.0);
        state = State { centroids: updated, counts, n_iter, inertia, ended };
        if let Some(checkpoint) = checkpoint {
            checkpoint.write(&state)?;
        }
        supervisor.report(Progress::Iteration { iteration: n_iter, inertia, shift });
        if shift == 0.0 && reseeded == 0 {
            let State { centroids, counts, .. } = state;
            return Ok(Fitted { centroids, inertia, n_iter, counts });
        }
    }
    // Inertia and counts of the centroids that are returned, not of those before the last update.
    let Pass { counts, inertia, .. } = pass(rows, &state.centroids, options, &mut partials, supervisor)?;
    Ok(Fitted { centroids: state.centroids, inertia, n_iter: state.n_iter, counts })
}

/// Assign all rows to `centroids`, and sum them up. `partials` is memory kept from one call to the next.
fn pass(
    rows: RowSet,
    centroids: &[f32],
    options: &Options,
    partials: &mut Vec<Pass<f32>>,
    supervisor: &Supervisor,
) -> Result<Pass<f64>> {
    with_pages_ahead(rows, 0..rows.len(), |ahead| waves(rows, centroids, options, partials, ahead, supervisor))
}

/// Chunks in waves: so many as their sums take memory for, whose sums are then added in order.
fn waves(
    rows: RowSet,
    centroids: &[f32],
    options: &Options,
    partials: &mut Vec<Pass<f32>>,
    ahead: &Ahead,
    supervisor: &Supervisor,
) -> Result<Pass<f64>> {
    let (k, dim) = (options.n_clusters, rows.source.dim());
    let assigner = Assigner::new(rows.kernel(options.kernel), centroids, dim, rows.dtype())?;
    let chunk_rows = CHUNK_ROWS.max(4 * k).next_multiple_of(CHUNK_ROWS);
    let n_chunks = rows.len().div_ceil(chunk_rows);
    let at_once = (PARTIAL_BYTES / (4 * k * dim)).clamp(1, 8 * rayon::current_num_threads());
    let n_far = k.min(MAX_RESEEDED);
    partials.resize_with(at_once.min(n_chunks), Pass::default);

    let mut total = Pass { sums: vec![0f64; k * dim], counts: vec![0; k], inertia: 0.0, far: Vec::new() };
    for first in (0..n_chunks).step_by(at_once) {
        let wave = &mut partials[..at_once.min(n_chunks - first)];
        // A row nearer than the farthest of the chunks before cannot become one of the farthest.
        let floor = (total.far.len() == n_far).then(|| *total.far.last().expect("k is not zero"));
        let add = |(i, partial): (usize, &mut Pass<f32>)| {
            let chunk = (first + i) * chunk_rows..rows.len().min((first + i + 1) * chunk_rows);
            ahead.reached(chunk.start);
            sum_chunk(rows, chunk, centroids, &assigner, (n_far, floor), partial, supervisor)
        };
        in_order(wave.iter_mut().enumerate(), add)?;
        total.sums.par_chunks_mut(1 << 14).enumerate().for_each(|(i, sums)| {
            for partial in &*wave {
                let part = &partial.sums[i << 14..][..sums.len()];
                sums.iter_mut().zip(part).for_each(|(sum, &part)| *sum += f64::from(part));
            }
        });
        for partial in wave {
            total.counts.iter_mut().zip(&partial.counts).for_each(|(count, part)| *count += part);
            total.inertia += partial.inertia;
            total.far.append(&mut partial.far);
        }
        total.far.sort_unstable_by_key(|far| Reverse(*far));
        total.far.truncate(n_far);
    }
    Ok(total)
}

fn sum_chunk(
    rows: RowSet,
    chunk: Range<usize>,
    centroids: &[f32],
    assigner: &Assigner,
    (n_far, floor): (usize, Option<Far>),
    found: &mut Pass<f32>,
    supervisor: &Supervisor,
) -> Result<()> {
    let dim = rows.source.dim();
    found.sums.clear();
    found.sums.resize(centroids.len(), 0.0);
    found.counts.clear();
    found.counts.resize(centroids.len() / dim, 0);
    found.inertia = 0.0;
    let mut far = BinaryHeap::with_capacity(n_far + 1);
    let (mut reader, mut block, mut scratch) = (Reader::new(rows), Block::default(), Scratch::default());
    let (mut tally, mut labels) = (Tally::new(None), Vec::new());
    for first in chunk.clone().step_by(assigner.block_rows()) {
        supervisor.check()?;
        let view = reader.view(first, chunk.end.min(first + assigner.block_rows()), &mut block)?;
        labels.resize(view.rows.len(), 0);
        assigner.assign(view.rows, view.ahead, &mut labels, &mut scratch);
        let added = tally.add(view.rows, &labels, centroids, &mut found.sums);
        if let Err(BadRow(i)) = added {
            let position = view.positions[i];
            return Err(reader.complaint(position));
        }
        for ((&label, &distance), &position) in labels.iter().zip(&tally.distances).zip(view.positions) {
            found.counts[label as usize] += 1;
            found.inertia += f64::from(distance);
            let this = Far { distance: distance.to_bits(), position: Reverse(position), label };
            if floor.is_some_and(|floor| this < floor) {
                continue;
            }
            if far.len() < n_far {
                far.push(Reverse(this));
            } else if far.peek().is_some_and(|Reverse(nearest)| this > *nearest) {
                far.pop();
                far.push(Reverse(this));
            }
        }
    }
    found.far = far.into_iter().map(|Reverse(far)| far).collect();
    Ok(())
}

/// Give each empty cluster one of the rows that lie farthest from their centroids, and take it from its own cluster.
/// Rows equal to one given already are passed over. Returns how many clusters were filled.
fn reseed(rows: RowSet, found: &mut Pass<f64>) -> Result<usize> {
    let dim = rows.source.dim();
    let empty: Vec<usize> = (0..found.counts.len()).filter(|&k| found.counts[k] == 0).collect();
    let mut empty = empty.into_iter().peekable();
    let (mut reader, mut block) = (Reader::new(rows), Block::default());
    let (mut given, mut filled) = (BTreeSet::new(), 0);
    for far in &found.far {
        let Some(&k) = empty.peek().filter(|_| far.distance > 0) else { break };
        let own = far.label as usize;
        if found.counts[own] < 2 {
            continue;
        }
        reader.read(far.position.0, far.position.0 + 1, &mut block)?;
        let x = &block.x[..dim];
        if !given.insert(x.iter().map(|x| x.to_bits()).collect::<Vec<_>>()) {
            continue;
        }
        for (j, &x) in x.iter().enumerate() {
            found.sums[own * dim + j] -= f64::from(x);
            found.sums[k * dim + j] = f64::from(x);
        }
        found.counts[own] -= 1;
        found.counts[k] = 1;
        filled += 1;
        empty.next();
    }
    Ok(filled)
}

/// Means of the clusters; one that stays empty keeps its centroid.
fn update(found: &Pass<f64>, centroids: &[f32], dim: usize, unit_normalize: bool) -> Vec<f32> {
    let mut updated = centroids.to_vec();
    updated.par_chunks_exact_mut(dim).zip(found.sums.par_chunks_exact(dim)).zip(&found.counts).for_each(
        |((centroid, sums), &count)| {
            if count > 0 {
                centroid.iter_mut().zip(sums).for_each(|(c, sum)| *c = (sum / count as f64) as f32);
                if unit_normalize {
                    normalize(centroid);
                }
            }
        },
    );
    updated
}

fn normalize(x: &mut [f32]) {
    let norm = squared_norm(x).sqrt();
    if norm > 0.0 && norm.is_finite() {
        x.iter_mut().for_each(|x| *x /= norm);
    }
}
