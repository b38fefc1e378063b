//! Lloyd's iterations.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use rayon::prelude::*;

use super::assign::{Assigner, Scratch};
use super::source::{squared_distance, squared_norm, Block, Reader, RowSet};
use super::{Fitted, Options};
use crate::interrupt::{Progress, Supervisor};
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
struct Pass<T> {
    /// Sums of each centroid's rows, [K, dim].
    sums: Vec<T>,
    counts: Vec<u64>,
    inertia: f64,
    /// The farthest rows, for clusters that are empty.
    far: Vec<Far>,
}

pub fn run(rows: RowSet, start: Vec<f32>, options: &Options, supervisor: &Supervisor) -> Result<Fitted> {
    let dim = rows.source.dim();
    let mut centroids = start;
    if options.unit_normalize {
        centroids.chunks_exact_mut(dim).for_each(normalize);
    }
    let (mut previous, mut n_iter) = (f64::INFINITY, 0);
    while n_iter < options.max_iter {
        let mut found = pass(rows, &centroids, options, supervisor)?;
        let reseeded = reseed(rows, &mut found)?;
        let updated = update(&found, &centroids, dim, options.unit_normalize);
        let squares = updated.iter().zip(&centroids).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        let shift = squares.sum::<f64>().sqrt();
        n_iter += 1;
        supervisor.report(Progress::Iteration { iteration: n_iter, inertia: found.inertia, shift });
        if shift == 0.0 {
            let Pass { counts, inertia, .. } = found;
            return Ok(Fitted { centroids, inertia, n_iter, counts });
        }
        centroids = updated;
        // The first iteration has nothing to compare with; after a reseeding the next one is bound to gain.
        if previous.is_finite() && reseeded == 0 && previous - found.inertia <= options.tol * previous {
            break;
        }
        previous = found.inertia;
    }
    // Inertia and counts of the centroids that are returned, not of those before the last update.
    let Pass { counts, inertia, .. } = pass(rows, &centroids, options, supervisor)?;
    Ok(Fitted { centroids, inertia, n_iter, counts })
}

/// Assign all rows to `centroids`, and sum them up.
fn pass(rows: RowSet, centroids: &[f32], options: &Options, supervisor: &Supervisor) -> Result<Pass<f64>> {
    let (k, dim) = (options.n_clusters, rows.source.dim());
    let assigner = Assigner::new(options.kernel, centroids, dim);
    let chunk_rows = CHUNK_ROWS.max(4 * k).next_multiple_of(CHUNK_ROWS);
    let n_chunks = rows.len().div_ceil(chunk_rows);
    let at_once = (PARTIAL_BYTES / (4 * k * dim)).clamp(1, 4 * rayon::current_num_threads());
    let n_far = k.min(MAX_RESEEDED);

    let mut total = Pass { sums: vec![0f64; k * dim], counts: vec![0; k], inertia: 0.0, far: Vec::new() };
    for first in (0..n_chunks).step_by(at_once) {
        let wave = first..n_chunks.min(first + at_once);
        let partials: Vec<Result<Pass<f32>>> = wave
            .into_par_iter()
            .map(|chunk| {
                let stop = rows.len().min((chunk + 1) * chunk_rows);
                sum_chunk(rows, chunk * chunk_rows, stop, centroids, &assigner, n_far, supervisor)
            })
            .collect();
        // In order, so that the error named is that of the first bad row.
        let partials = partials.into_iter().collect::<Result<Vec<_>>>()?;
        total.sums.par_chunks_mut(1 << 14).enumerate().for_each(|(i, sums)| {
            for partial in &partials {
                let part = &partial.sums[i << 14..][..sums.len()];
                sums.iter_mut().zip(part).for_each(|(sum, &part)| *sum += f64::from(part));
            }
        });
        for partial in partials {
            total.counts.iter_mut().zip(&partial.counts).for_each(|(count, part)| *count += part);
            total.inertia += partial.inertia;
            total.far.extend(partial.far);
        }
        total.far.sort_unstable_by_key(|far| Reverse(*far));
        total.far.truncate(n_far);
    }
    Ok(total)
}

fn sum_chunk(
    rows: RowSet,
    start: usize,
    stop: usize,
    centroids: &[f32],
    assigner: &Assigner,
    n_far: usize,
    supervisor: &Supervisor,
) -> Result<Pass<f32>> {
    let dim = rows.source.dim();
    let (mut sums, mut counts, mut inertia) = (vec![0f32; centroids.len()], vec![0; centroids.len() / dim], 0f64);
    let mut far = BinaryHeap::with_capacity(n_far + 1);
    let (mut reader, mut block, mut scratch, mut labels) =
        (Reader::new(rows), Block::default(), Scratch::default(), Vec::new());
    for first in (start..stop).step_by(assigner.block_rows()) {
        supervisor.check()?;
        reader.read(first, stop.min(first + assigner.block_rows()), &mut block)?;
        let n = block.positions.len();
        labels.resize(n, 0);
        assigner.assign(&block.x[..n * dim], &mut labels, &mut scratch);
        for ((x, &label), &position) in block.x.chunks_exact(dim).zip(&labels).zip(&block.positions) {
            let span = label as usize * dim..(label as usize + 1) * dim;
            let distance = squared_distance(x, &centroids[span.clone()]);
            sums[span].iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
            counts[label as usize] += 1;
            inertia += f64::from(distance);
            let this = Far { distance: distance.to_bits(), position: Reverse(position), label };
            if far.len() < n_far {
                far.push(Reverse(this));
            } else if far.peek().is_some_and(|Reverse(nearest)| this > *nearest) {
                far.pop();
                far.push(Reverse(this));
            }
        }
    }
    let far = far.into_iter().map(|Reverse(far)| far).collect();
    Ok(Pass { sums, counts, inertia, far })
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
