//! Where Lloyd's iterations stand, on disk after each: a fit that was killed goes on from there, to the same bits.
//!
//! The file holds the centroids after an iteration, the rows that each of them won in it, and what the stop rule has
//! to remember. There is no generator to keep: every draw is a hash of (seed, row), and the seed is in `made_from`.

use std::collections::BTreeMap;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::options::{Init, Options};
use crate::interrupt::Supervisor;
use crate::rows::{RowSet, Source};
use crate::store::{write, TensorData, TensorFile};
use crate::{Dtype, Result};

const MADE_FROM: &str = "made_from";
const ITERATIONS: &str = "n_iter";
/// The float64 as 16 hexadecimal digits, so that it comes back to the last bit.
const INERTIA: &str = "inertia_bits";
const ENDED: &str = "ended";
/// Rows of an array that stand for all of them: to hash those would take as long as an iteration.
const SAMPLED: usize = 4096;

/// What the next iteration starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// [K, dim].
    pub centroids: Vec<f32>,
    /// Rows won in the iteration that led here, [K].
    pub counts: Vec<u64>,
    pub n_iter: usize,
    /// Before the last update; infinity at the start.
    pub inertia: f64,
    /// The stop rule said so.
    pub ended: bool,
}

pub struct ResumeFile<'a> {
    path: &'a Path,
    made_from: String,
}

impl<'a> ResumeFile<'a> {
    pub fn new(path: &'a Path, rows: RowSet, options: &Options, supervisor: &Supervisor) -> Result<ResumeFile<'a>> {
        Ok(ResumeFile { path, made_from: fingerprint(rows, options, supervisor)? })
    }

    /// What a fit of the same rows with the same options left. A damaged file, and one of another fit, count as none:
    /// they will be overwritten.
    pub fn read(&self, options: &Options, dim: usize) -> Option<State> {
        let file = TensorFile::open(self.path).ok()?;
        file.verify(&|| Ok(())).ok()?;
        let metadata = &file.header().metadata;
        if metadata.get(MADE_FROM) != Some(&self.made_from) {
            return None;
        }
        let state = State {
            centroids: file.typed::<f32>("centroids", Dtype::F32).ok()?.to_vec(),
            counts: file.typed::<u64>("counts", Dtype::U64).ok()?.to_vec(),
            n_iter: metadata.get(ITERATIONS)?.parse().ok()?,
            inertia: f64::from_bits(u64::from_str_radix(metadata.get(INERTIA)?, 16).ok()?),
            ended: metadata.get(ENDED)? == "true",
        };
        // One that went further than is asked for now says nothing about the way there.
        let fits = state.centroids.len() == options.n_clusters * dim && state.n_iter <= options.max_iter;
        fits.then_some(state)
    }

    pub fn write(&self, state: &State) -> Result<()> {
        let k = state.counts.len();
        let (centroids, counts) = (bytemuck::cast_slice(&state.centroids), bytemuck::cast_slice(&state.counts));
        let dim = state.centroids.len() / k;
        let tensors = [
            TensorData { name: "centroids", dtype: Dtype::F32, shape: vec![k, dim], bytes: centroids },
            TensorData { name: "counts", dtype: Dtype::U64, shape: vec![k], bytes: counts },
        ];
        let metadata = BTreeMap::from([
            (MADE_FROM.into(), self.made_from.clone()),
            (ITERATIONS.into(), state.n_iter.to_string()),
            (INERTIA.into(), format!("{:016x}", state.inertia.to_bits())),
            (ENDED.into(), state.ended.to_string()),
        ]);
        write(self.path, &tensors, &metadata).map(drop)
    }
}

/// Of the rows and of all options that the bits of an iteration depend on: neither threads nor max_iter are.
fn fingerprint(rows: RowSet, options: &Options, supervisor: &Supervisor) -> Result<String> {
    let mut hash = Xxh3::new();
    let (source, kernel) = (rows.source, rows.kernel(options.kernel).rounding());
    let shape = (source.len(), source.dim(), source.dtype().name());
    let numbers = (options.n_clusters, options.tol.to_bits(), options.seed, options.train_rows);
    hash.update(format!("{shape:?} {numbers:?} {} {kernel}", options.unit_normalize).as_bytes());
    match &options.init {
        Init::PlusPlus => hash.update(b"k-means++"),
        Init::Centroids(given) => hash.update(bytemuck::cast_slice(given)),
    }
    match source {
        Source::Store { store, len, .. } => {
            for index in 0..len.div_ceil(store.rows_per_shard()) {
                supervisor.check()?;
                hash.update(store.shard(index)?.file.recorded_checksum()?.as_bytes());
            }
        }
        Source::Array(array) => {
            for row in (0..array.len()).step_by(array.len().div_ceil(SAMPLED).max(1)) {
                array.slice(row, row + 1).hash_into(&mut hash);
            }
        }
    }
    Ok(format!("{:016x}", hash.digest()))
}
