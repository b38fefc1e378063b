//! k-means over rows larger than memory: Lloyd's algorithm on a training sample, k-means++ or a given start.
//!
//! The result is the same to the last bit for any number of threads and any shard size: a row's nearest centroid
//! depends on that row and the kernel alone (`arch`), sums go over chunks of a fixed number of rows in float32 and over
//! the chunks in order in float64 (`lloyd`, `tally`), and every draw is a hash of (seed, row).

mod ahead;
pub mod arch;
mod checkpoint;
mod init;
mod lloyd;
mod others;
pub(crate) mod place;
mod predict;
mod predict_to;
pub mod source;
// Open for the benches.
#[doc(hidden)]
pub mod tally;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use rayon::prelude::*;

pub use arch::Kernel;
pub use others::{help, Others};
pub use predict::{predict, Model, INVALID};
pub use predict_to::predict_to;
pub use source::Source;

use crate::hash::derive;
use crate::interrupt::Supervisor;
use crate::parallel::{in_order, thread_pool};
use crate::resample::{bottom_k, BottomK};
use crate::rows::Rows;
use crate::{Error, Result};
use checkpoint::Checkpoint;
use source::{squared_norm, Block, Reader, RowSet, MAX_SQUARED_NORM};

/// Training rows are copied to memory, as they are stored, when they take no more than this; else they are read from the
/// source in each iteration.
const GATHER_BYTES: usize = 256 << 20;

/// Where Lloyd's algorithm starts.
pub enum Init {
    PlusPlus,
    /// [K, dim].
    Centroids(Vec<f32>),
}

pub struct Options {
    pub n_clusters: usize,
    pub init: Init,
    pub max_iter: usize,
    /// Stop when an iteration lowers the inertia by no more than this share.
    pub tol: f64,
    pub seed: u64,
    /// Train on so many rows, chosen by a seeded hash; `None` on all.
    pub train_rows: Option<usize>,
    pub unit_normalize: bool,
    /// `None`: the fastest for the rows.
    pub kernel: Option<Kernel>,
    /// 0: as many as the machine has.
    pub n_threads: usize,
    /// A file that is written after each iteration, and from which a fit that was killed goes on.
    pub checkpoint: Option<PathBuf>,
}

/// Centroids, and what the training rows say about them.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// [K, dim].
    pub centroids: Vec<f32>,
    /// Sum over the training rows of the squared distance to the nearest of `centroids`.
    pub inertia: f64,
    pub n_iter: usize,
    /// Training rows nearest to each of `centroids`, [K].
    pub counts: Vec<u64>,
}

pub fn fit(source: &Source, options: &Options, supervisor: &Supervisor) -> Result<Fitted> {
    fit_with(source, options, None, supervisor)
}

/// `fit`, the rows added up together with other processes, which are in `help` with the same source and options.
pub fn fit_with(
    source: &Source,
    options: &Options,
    others: Option<&dyn Others>,
    supervisor: &Supervisor,
) -> Result<Fitted> {
    on_training_rows(source, options, supervisor, |all, rows| {
        // What the checkpoint stands for does not depend on the sample, which the options fix.
        let path = options.checkpoint.as_deref();
        let checkpoint = path.map(|path| Checkpoint::new(path, all, options, supervisor)).transpose()?;
        train(rows, options, checkpoint.as_ref(), others, supervisor)
    })
}

/// Do `work` in a pool of threads, on all valid rows and on those to train on.
fn on_training_rows<T: Send>(
    source: &Source,
    options: &Options,
    supervisor: &Supervisor,
    work: impl FnOnce(RowSet, RowSet) -> Result<T> + Send,
) -> Result<T> {
    let k = options.n_clusters;
    let mut n_valid = 0;
    source.each_valid(supervisor, |_| n_valid += 1)?;
    if k == 0 || k > n_valid || k >= u32::MAX as usize {
        let skipped = source.len() - n_valid;
        let what =
            format!("n_clusters: expected 1 to the number of rows, {n_valid} ({skipped} invalid ones not counted)");
        return Err(Error::input(format!("{what}; got {k}")));
    }
    if let Some(n) = options.train_rows.filter(|&n| n < k) {
        return Err(Error::input(format!("train_rows: expected at least n_clusters, {k}; got {n}")));
    }
    let pool = thread_pool(options.n_threads)?;
    pool.install(|| {
        let all = RowSet { source, list: None, unit_normalize: options.unit_normalize };
        let n_train = options.train_rows.unwrap_or(n_valid).min(n_valid);
        if n_train == n_valid {
            return work(all, all);
        }
        let list = sample(all, n_train, derive(options.seed, "k-means training rows"), supervisor)?;
        let rows = RowSet { list: Some(&list), ..all };
        if n_train * source.dim() * source.dtype().size() > GATHER_BYTES {
            return work(all, rows);
        }
        let (stored, scales) = gather_stored(rows, supervisor)?;
        let size = source.dim() * source.dtype().size();
        let bytes = &bytemuck::cast_slice(&stored)[..n_train * size];
        let array = Rows::new(source.dtype(), source.dim(), bytes, &scales)?;
        work(all, RowSet { source: &Source::Array(array), list: None, ..rows })
    })
}

fn train(
    rows: RowSet,
    options: &Options,
    checkpoint: Option<&Checkpoint>,
    others: Option<&dyn Others>,
    supervisor: &Supervisor,
) -> Result<Fitted> {
    let (k, dim) = (options.n_clusters, rows.source.dim());
    if let Init::Centroids(given) = &options.init {
        if given.len() != k * dim {
            return Err(Error::input(format!("init: expected finite centroids [{k}, {dim}]")));
        }
        check_centroids(given, dim).map_err(|what| Error::input(format!("init: {what}")))?;
    }
    let state = match (checkpoint.and_then(|checkpoint| checkpoint.read(options, dim)), &options.init) {
        (Some(state), _) => state,
        (None, Init::PlusPlus) => lloyd::start(init::plus_plus(rows, k, options.seed, supervisor)?, dim, options),
        (None, Init::Centroids(given)) => lloyd::start(given.clone(), dim, options),
    };
    lloyd::run(rows, state, options, checkpoint, others, supervisor)
}

/// What rows must be, so that no distance overflows, centroids must be too.
fn check_centroids(centroids: &[f32], dim: usize) -> std::result::Result<(), String> {
    let sound = |c: &[f32]| squared_norm(c) < MAX_SQUARED_NORM;
    centroids.chunks_exact(dim).position(|c| !sound(c)).map_or(Ok(()), |k| {
        Err(format!("expected finite centroids with squared norms below {MAX_SQUARED_NORM:e}; centroid {k} is not one"))
    })
}

/// `n` valid rows of the set (all, if it has fewer), ascending: those whose position has the smallest seeded hash.
fn sample(rows: RowSet, n: usize, seed: u64, supervisor: &Supervisor) -> Result<Vec<u64>> {
    if let Some(list) = rows.list {
        let positions = bottom_k(0..list.len() as u64, n, seed, supervisor)?;
        return Ok(positions.into_iter().map(|position| list[position as usize]).collect());
    }
    let mut kept = BottomK::new(n, seed);
    rows.source.each_valid(supervisor, |row| kept.offer(row as u64))?;
    Ok(kept.rows())
}

/// All rows of the set as float32, [len, dim]; none of them may be invalid.
fn gather(rows: RowSet, supervisor: &Supervisor) -> Result<Vec<f32>> {
    const STEP: usize = 1024;
    let dim = rows.source.dim();
    let mut out = vec![0f32; rows.len() * dim];
    let read = |(number, out): (usize, &mut [f32])| {
        supervisor.check()?;
        let mut block = Block::default();
        Reader::new(rows).read(number * STEP, number * STEP + out.len() / dim, &mut block)?;
        out.copy_from_slice(&block.x[..out.len()]);
        Ok(())
    };
    in_order(out.chunks_mut(STEP * dim).enumerate(), read)?;
    Ok(out)
}

/// All rows of the set as they are stored, checked, and their scales if they have any; none of them may be invalid.
fn gather_stored(rows: RowSet, supervisor: &Supervisor) -> Result<(Vec<u64>, Vec<f32>)> {
    /// Rows at once: so many take a whole number of u64, whatever their type.
    const STEP: usize = 1024;
    // unit_normalize is applied when a block is read from the copy.
    let rows = RowSet { unit_normalize: false, ..rows };
    let size = rows.source.dim() * rows.source.dtype().size();
    let mut out = vec![0u64; (rows.len() * size).div_ceil(8)];
    let copy = |(number, out): (usize, &mut [u64])| {
        supervisor.check()?;
        let (start, stop) = (number * STEP, rows.len().min((number + 1) * STEP));
        let mut reader = Reader::new(rows);
        reader.read(start, stop, &mut Block::default())?;
        let mut block = Block::default();
        reader.stored(start, stop, &mut block, bytemuck::cast_slice_mut(out))?;
        Ok(block.scales)
    };
    let scales: Vec<Result<Vec<f32>>> = out.par_chunks_mut(STEP * size / 8).enumerate().map(copy).collect();
    let scales = scales.into_iter().collect::<Result<Vec<_>>>()?;
    Ok((out, scales.concat()))
}
