//! The chunks of a pass, and the waves in which the threads take them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::options::Options;
use super::partial::{Far, Pass};
use super::peers::Peers;
use super::tally::{BadRow, Tally};
use crate::interrupt::Supervisor;
use crate::parallel::in_order;
use crate::rows::readahead::Readahead;
use crate::rows::{Block, Reader, RowSet};
use crate::simd::known::{Known, Moves};
use crate::simd::middle::mean;
use crate::simd::{Assigner, Scratch};
use crate::Result;

/// The least rows of a chunk, whose sums are taken together in float32. A chunk has at least 4 K rows, so that adding
/// up chunks costs less than adding up rows. K alone fixes the number, because the bits of the result depend on it.
const CHUNK_ROWS: usize = 8192;
/// The bytes of rows whose labels are found before they are added up: many rows of each centroid, in the third-level cache.
const SPAN_BYTES: usize = 4 << 20;
/// The most bytes of the sums of all chunks of a wave. This bounds how many chunks run at once, not the result.
const PARTIAL_BYTES: usize = 1 << 30;
/// The most chunks of a wave that one of several processes takes.
const SHARED_WAVE: usize = 16;
/// The most empty clusters that an iteration fills again.
const MAX_RESEEDED: usize = 1024;

/// The fewest centroids with which searches learn from one another. With fewer, the bounds save less than they cost.
const LEARNED_CLUSTERS: usize = 2048;
/// Searches learn once half of the centroids move by less than their spread divided by this. Before, bounds of panels
/// exclude next to nothing in the next search.
const SETTLED: f64 = 4.0;
/// The most bytes of all bounds. With more, no search learns.
const LEARNED_BYTES: usize = 1 << 30;

/// Memory that serves all passes of a fit.
#[derive(Default)]
pub struct Memory {
    pub partials: Vec<Pass<f32>>,
    /// What the pass before has learned of each chunk; empty where it has not.
    known: Vec<Known>,
    /// The centroids of the pass before.
    before: Vec<f32>,
}

impl Memory {
    /// Get ready for a pass with these centroids.
    pub fn moves(&mut self, waves: &Waves, assigner: &Assigner, centroids: &[f32], k: usize) -> Option<Moves> {
        let n_panels = assigner.n_panels().filter(|_| k >= LEARNED_CLUSTERS)?;
        if Known::n_bytes(waves.n_rows, n_panels) > LEARNED_BYTES {
            return None;
        }
        let before = std::mem::replace(&mut self.before, centroids.to_vec());
        if self.known.is_empty() && (before.is_empty() || !are_settled(centroids, &before, centroids.len() / k)) {
            return None;
        }
        self.known.resize_with(waves.n_chunks, Known::default);
        Some(assigner.moves(centroids, Some(&before)))
    }
}

/// Whether half of the centroids have moved little. The answer changes the speed alone.
fn are_settled(centroids: &[f32], before: &[f32], dim: usize) -> bool {
    let squared = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let middle = mean(centroids, dim);
    let rows = || centroids.chunks_exact(dim);
    let spread = rows().map(|c| squared(c, &middle)).sum::<f64>() * dim as f64 / centroids.len() as f64;
    let mut moved: Vec<f64> = rows().zip(before.chunks_exact(dim)).map(|(c, before)| squared(c, before)).collect();
    let half = moved.len() / 2;
    let median = *moved.select_nth_unstable_by(half, f64::total_cmp).1;
    median * SETTLED * SETTLED <= spread
}

/// The chunks in waves. A wave has as many chunks as there is memory for; its sums are then added in order.
pub struct Waves {
    pub chunk_rows: usize,
    pub n_chunks: usize,
    at_once: usize,
    n_rows: usize,
    pub n_far: usize,
}

/// What rows are searched by, and what is added up.
pub struct Sums<'a> {
    /// [K, dim]
    pub centroids: &'a [f32],
    /// [dim]
    pub offset: &'a [f32],
    /// Of the rows of the source.
    pub weights: Option<&'a [f32]>,
    pub assigner: &'a Assigner,
    /// For a search that uses what the pass before has learned.
    pub moves: Option<Moves>,
}

impl Waves {
    pub fn new(rows: RowSet, options: &Options, shared: bool) -> Waves {
        let (k, dim) = (options.n_clusters, rows.source.dim());
        let chunk_rows = CHUNK_ROWS.max(4 * k).next_multiple_of(CHUNK_ROWS);
        // Several processes must have the same waves, whatever their numbers of threads.
        let most = if shared { SHARED_WAVE } else { 8 * rayon::current_num_threads() };
        let at_once = (PARTIAL_BYTES / (4 * k * dim)).clamp(1, most);
        let n_chunks = rows.len().div_ceil(chunk_rows);
        Waves { chunk_rows, n_chunks, at_once, n_rows: rows.len(), n_far: k.min(MAX_RESEEDED) }
    }

    /// The chunks of each wave.
    pub fn all(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        (0..self.n_chunks).step_by(self.at_once).map(|first| first..self.n_chunks.min(first + self.at_once))
    }

    #[allow(clippy::too_many_arguments)] // What a pass holds, and which chunks.
    pub fn sum(
        &self,
        rows: RowSet,
        chunks: Range<usize>,
        sums: &Sums,
        floor: Option<Far>,
        memory: &mut Memory,
        ahead: &Readahead,
        supervisor: &Supervisor,
    ) -> Result<()> {
        let Memory { partials, known, .. } = memory;
        partials.resize_with(partials.len().max(chunks.len()), Pass::default);
        let known = known.get_mut(chunks.clone()).unwrap_or_default().iter_mut().map(Some);
        let known = known.chain(std::iter::repeat_with(|| None));
        let add = |(i, (partial, known)): (usize, (&mut Pass<f32>, Option<&mut Known>))| {
            let first = (chunks.start + i) * self.chunk_rows;
            let chunk = first..self.n_rows.min(first + self.chunk_rows);
            let reader = Reader::for_item(rows, ahead.begin(chunk.clone()));
            sum_chunk(reader, rows, (chunk, known), sums, (self.n_far, floor), partial, supervisor)
        };
        in_order(partials[..chunks.len()].iter_mut().zip(known).enumerate(), add)?;
        Ok(())
    }

    /// Receive the sums of `n` chunks that another process has added up.
    pub fn take(
        &self,
        n: usize,
        from: usize,
        (k, n_sums): (usize, usize),
        peers: &dyn Peers,
        partials: &mut Vec<Pass<f32>>,
        supervisor: &Supervisor,
    ) -> Result<()> {
        partials.resize_with(partials.len().max(n), Pass::default);
        for partial in &mut partials[..n] {
            supervisor.check()?;
            let bytes = peers.receive(from, Pass::n_bytes(n_sums, k, self.n_far))?;
            *partial = Pass::from_bytes(&bytes, n_sums, k, self.n_far)?;
        }
        Ok(())
    }
}

fn sum_chunk(
    mut reader: Reader,
    rows: RowSet,
    (chunk, mut known): (Range<usize>, Option<&mut Known>),
    &Sums { centroids, offset, weights, assigner, ref moves }: &Sums,
    (n_far, floor): (usize, Option<Far>),
    partial: &mut Pass<f32>,
    supervisor: &Supervisor,
) -> Result<()> {
    let dim = rows.source.dim();
    partial.sums.clear();
    partial.sums.resize(centroids.len(), 0.0);
    partial.counts.clear();
    partial.counts.resize(centroids.len() / dim, 0);
    partial.weights.clear();
    partial.weights.resize(if weights.is_some() { centroids.len() / dim } else { 0 }, 0.0);
    partial.inertia = 0.0;
    let mut far = BinaryHeap::with_capacity(n_far + 1);
    let (mut block, mut scratch) = (Block::default(), Scratch::default());
    let (mut tally, mut labels, mut x) = (Tally::new(None), Vec::new(), vec![0f32; dim]);
    if let Some(known) = &mut known {
        known.prepare(chunk.len(), assigner.block_rows(), assigner.n_panels().unwrap_or(0));
    }
    let block_rows = assigner.block_rows();
    let span_blocks = (SPAN_BYTES / (block_rows * dim * rows.dtype().size())).max(1);
    for (span, first) in chunk.clone().step_by(span_blocks * block_rows).enumerate() {
        let view = reader.view(first, chunk.end.min(first + span_blocks * block_rows), &mut block)?;
        labels.resize(view.rows.len(), 0);
        for (number, labels) in labels.chunks_mut(block_rows).enumerate() {
            supervisor.check()?;
            let (start, stop) = (number * block_rows, number * block_rows + labels.len());
            let block = view.rows.slice(start, stop);
            match (&mut known, moves) {
                (Some(known), Some(moves)) => {
                    let known = known.block(span * span_blocks + number);
                    assigner.assign_known(block, moves, known, labels, &mut scratch);
                }
                _ => {
                    let next = view.rows.slice(stop, view.rows.len().min(stop + block_rows)).bytes();
                    let ahead = if next.is_empty() { view.ahead } else { next };
                    assigner.assign(block, ahead, labels, &mut scratch);
                }
            }
        }
        let added = match weights {
            None => tally.add(view.rows, &labels, centroids, offset, &mut partial.sums),
            Some(_) => tally.measure(view.rows, &labels, centroids),
        };
        if let Err(BadRow(i)) = added {
            let position = view.positions[i];
            return Err(reader.complaint(position));
        }
        for (i, ((&label, &distance), &position)) in labels.iter().zip(&tally.distances).zip(view.positions).enumerate()
        {
            partial.counts[label as usize] += 1;
            if let Some(weights) = weights {
                let weight = weights[rows.row(position)];
                view.rows.slice(i, i + 1).decode(&mut x);
                let sums = &mut partial.sums[label as usize * dim..][..dim];
                sums.iter_mut().zip(&x).zip(offset).for_each(|((sum, x), offset)| *sum += (x - offset) * weight);
                partial.weights[label as usize] += f64::from(weight);
                partial.inertia += f64::from(distance) * f64::from(weight);
            } else {
                partial.inertia += f64::from(distance);
            }
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
    partial.far = far.into_iter().map(|Reverse(far)| far).collect();
    Ok(())
}
