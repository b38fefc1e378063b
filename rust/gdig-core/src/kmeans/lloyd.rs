//! Lloyd's iterations.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Range;

use rayon::prelude::*;

use super::ahead::{with_pages_ahead, Ahead};
use super::arch::{Assigner, Scratch};
use super::checkpoint::{Checkpoint, State};
use super::others::Others;
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
/// Most chunks in a wave that one of several processes takes.
const SHARED_WAVE: usize = 16;
/// Most empty clusters that one iteration fills again.
const MAX_RESEEDED: usize = 1024;

/// A row far from its centroid. The greatest is the farthest; of equally far ones, the first row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Far {
    /// Squared distance, as bits: for numbers that are not negative they sort alike.
    pub distance: u32,
    pub position: Reverse<usize>,
    pub label: u32,
}

/// What one pass over rows finds.
#[derive(Default)]
pub(super) struct Pass<T> {
    /// Sums of each centroid's rows, [K, dim].
    pub sums: Vec<T>,
    pub counts: Vec<u64>,
    pub inertia: f64,
    /// The farthest rows, for clusters that are empty.
    pub far: Vec<Far>,
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
    others: Option<&dyn Others>,
    supervisor: &Supervisor,
) -> Result<Fitted> {
    let dim = rows.source.dim();
    let mut partials = Vec::new();
    let mut pass = |centroids: &[f32]| pass(rows, centroids, options, &mut partials, others, supervisor);
    while !state.ended && state.n_iter < options.max_iter {
        let mut found = pass(&state.centroids)?;
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
    let Pass { counts, inertia, .. } = pass(&state.centroids)?;
    Ok(Fitted { centroids: state.centroids, inertia, n_iter: state.n_iter, counts })
}

/// Assign all rows to `centroids`, and sum them up. `partials` is memory kept from one call to the next.
fn pass(
    rows: RowSet,
    centroids: &[f32],
    options: &Options,
    partials: &mut Vec<Pass<f32>>,
    others: Option<&dyn Others>,
    supervisor: &Supervisor,
) -> Result<Pass<f64>> {
    if let Some(others) = others {
        others.give(centroids)?;
    }
    let mut total = Pass { sums: vec![0f64; centroids.len()], counts: vec![0; options.n_clusters], ..Pass::default() };
    let waves = Waves::new(rows, options, others.is_some());
    with_pages_ahead(rows, 0..rows.len(), |ahead| {
        let assigner = Assigner::new(rows.kernel(options.kernel), centroids, rows.source.dim(), rows.dtype())?;
        for (number, chunks) in waves.all().enumerate() {
            let from = others.map_or(0, |others| number % others.world());
            // A row nearer than the farthest of the chunks before cannot become one of the farthest.
            let floor = (total.far.len() == waves.n_far).then(|| *total.far.last().expect("k is not zero"));
            if from == 0 {
                waves.sum(rows, chunks.clone(), centroids, &assigner, floor, partials, ahead, supervisor)?;
            } else {
                let shape = (options.n_clusters, centroids.len());
                waves.take(chunks.len(), from, shape, others.expect("from is not 0"), partials, supervisor)?;
            }
            total.fold(&mut partials[..chunks.len()], waves.n_far);
        }
        Ok(total)
    })
}

/// What rank `rank` of several adds to a pass: the sums of the chunks of its waves.
pub(super) fn help(
    rows: RowSet,
    centroids: &[f32],
    options: &Options,
    partials: &mut Vec<Pass<f32>>,
    others: &dyn Others,
    supervisor: &Supervisor,
) -> Result<()> {
    let waves = Waves::new(rows, options, true);
    with_pages_ahead(rows, 0..rows.len(), |ahead| {
        let assigner = Assigner::new(rows.kernel(options.kernel), centroids, rows.source.dim(), rows.dtype())?;
        for (number, chunks) in waves.all().enumerate() {
            if number % others.world() != others.rank() {
                ahead.reached(chunks.start * waves.chunk_rows);
                continue;
            }
            waves.sum(rows, chunks.clone(), centroids, &assigner, None, partials, ahead, supervisor)?;
            for partial in &partials[..chunks.len()] {
                others.send(&partial.to_bytes(waves.n_far))?;
            }
        }
        Ok(())
    })
}

impl Pass<f64> {
    /// Add the sums of chunks in their order.
    fn fold(&mut self, partials: &mut [Pass<f32>], n_far: usize) {
        self.sums.par_chunks_mut(1 << 14).enumerate().for_each(|(i, sums)| {
            for partial in &*partials {
                let part = &partial.sums[i << 14..][..sums.len()];
                sums.iter_mut().zip(part).for_each(|(sum, &part)| *sum += f64::from(part));
            }
        });
        for partial in partials {
            self.counts.iter_mut().zip(&partial.counts).for_each(|(count, part)| *count += part);
            self.inertia += partial.inertia;
            self.far.append(&mut partial.far);
        }
        self.far.sort_unstable_by_key(|far| Reverse(*far));
        self.far.truncate(n_far);
    }
}

/// Chunks in waves: so many as their sums take memory for, whose sums are then added in order.
struct Waves {
    chunk_rows: usize,
    n_chunks: usize,
    at_once: usize,
    n_rows: usize,
    n_far: usize,
}

impl Waves {
    fn new(rows: RowSet, options: &Options, shared: bool) -> Waves {
        let (k, dim) = (options.n_clusters, rows.source.dim());
        let chunk_rows = CHUNK_ROWS.max(4 * k).next_multiple_of(CHUNK_ROWS);
        // Where waves are dealt out, all processes must see the same ones, whatever their threads.
        let most = if shared { SHARED_WAVE } else { 8 * rayon::current_num_threads() };
        let at_once = (PARTIAL_BYTES / (4 * k * dim)).clamp(1, most);
        let n_chunks = rows.len().div_ceil(chunk_rows);
        Waves { chunk_rows, n_chunks, at_once, n_rows: rows.len(), n_far: k.min(MAX_RESEEDED) }
    }

    /// The chunks of each wave.
    fn all(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        (0..self.n_chunks).step_by(self.at_once).map(|first| first..self.n_chunks.min(first + self.at_once))
    }

    #[allow(clippy::too_many_arguments)] // What a pass holds, and which chunks.
    fn sum(
        &self,
        rows: RowSet,
        chunks: Range<usize>,
        centroids: &[f32],
        assigner: &Assigner,
        floor: Option<Far>,
        partials: &mut Vec<Pass<f32>>,
        ahead: &Ahead,
        supervisor: &Supervisor,
    ) -> Result<()> {
        partials.resize_with(partials.len().max(chunks.len()), Pass::default);
        let add = |(i, partial): (usize, &mut Pass<f32>)| {
            let first = (chunks.start + i) * self.chunk_rows;
            ahead.reached(first);
            let chunk = first..self.n_rows.min(first + self.chunk_rows);
            sum_chunk(rows, chunk, centroids, assigner, (self.n_far, floor), partial, supervisor)
        };
        in_order(partials[..chunks.len()].iter_mut().enumerate(), add)?;
        Ok(())
    }

    /// The sums of `n` chunks that another process has added up.
    fn take(
        &self,
        n: usize,
        from: usize,
        (k, n_sums): (usize, usize),
        others: &dyn Others,
        partials: &mut Vec<Pass<f32>>,
        supervisor: &Supervisor,
    ) -> Result<()> {
        partials.resize_with(partials.len().max(n), Pass::default);
        for partial in &mut partials[..n] {
            supervisor.check()?;
            let bytes = others.receive(from, Pass::n_bytes(n_sums, k, self.n_far))?;
            *partial = Pass::from_bytes(&bytes, n_sums, k, self.n_far)?;
        }
        Ok(())
    }
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
