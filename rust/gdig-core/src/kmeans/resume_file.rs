//! The resume file: the state of Lloyd's iterations on disk, written after each. A fit that was killed resumes from it,
//! and reaches the same bits.
//!
//! The file holds the centroids after an iteration, the rows of each centroid in that iteration, and the state of the
//! stop rule. There is no random generator to keep: every draw is a hash of (random state, row), and the random state
//! is in `made_from`.

use std::collections::BTreeMap;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::options::{check_centroids, Init, Options};
use crate::interrupt::Supervisor;
use crate::rows::{RowSet, Source};
use crate::simd::Kernel;
use crate::store::{write, TensorData, TensorFile, MADE_FROM};
use crate::{Dtype, Result};

const ITERATIONS: &str = "n_iter";
/// The bits of the float64 as 16 hexadecimal digits, so that no bit is lost.
const INERTIA: &str = "inertia_bits";
const ENDED: &str = "ended";
/// How the kernel rounds. It is part of `made_from` too.
const ROUNDING: &str = "rounding";
/// The rows of an array in its fingerprint. To hash all rows would take as long as an iteration.
const SAMPLED: usize = 4096;

/// The state that the next iteration starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// [K, dim].
    pub centroids: Vec<f32>,
    /// The rows of each centroid in the last iteration, [K].
    pub counts: Vec<u64>,
    pub n_iter: usize,
    /// The inertia before the last update; infinity at the start.
    pub inertia: f64,
    /// Whether the stop rule has ended the fit.
    pub ended: bool,
}

pub struct ResumeFile<'a> {
    path: &'a Path,
    made_from: String,
    kernel: Kernel,
}

impl<'a> ResumeFile<'a> {
    /// A fit that asks for no kernel goes on with one that rounds as the file says, if it `may_follow` and the machine
    /// has one. So a fit goes on where another kernel is the default.
    pub fn new(
        path: &'a Path,
        rows: RowSet,
        options: &Options,
        may_follow: bool,
        supervisor: &Supervisor,
    ) -> Result<ResumeFile<'a>> {
        let with = |kernel: Kernel| {
            Ok(ResumeFile { path, made_from: fingerprint(rows, options, kernel.rounding(), supervisor)?, kernel })
        };
        let kernel = rows.kernel(options.kernel);
        let other = if may_follow && options.kernel.is_none() { other_kernel(path, rows, kernel) } else { None };
        if let Some(followed) = other.map(with).transpose()? {
            if followed.read(options, rows.source.dim()).is_some() {
                return Ok(followed);
            }
        }
        with(kernel)
    }

    /// The kernel of the fit.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// The state that a fit of the same rows with the same options has left. A damaged file and the file of another fit
    /// give `None`, and will be overwritten.
    pub fn read(&self, options: &Options, dim: usize) -> Option<State> {
        let file = TensorFile::open_sound(self.path, &|| Ok(())).ok()?;
        let metadata = &file.header().metadata;
        if file.made_from() != self.made_from {
            return None;
        }
        let state = State {
            centroids: file.typed::<f32>("centroids", Dtype::F32).ok()?.to_vec(),
            counts: file.typed::<u64>("counts", Dtype::U64).ok()?.to_vec(),
            n_iter: metadata.get(ITERATIONS)?.parse().ok()?,
            inertia: f64::from_bits(u64::from_str_radix(metadata.get(INERTIA)?, 16).ok()?),
            ended: metadata.get(ENDED)? == "true",
        };
        let (k, given) = (options.n_clusters, (state.centroids.len(), state.counts.len()));
        let sound = given == (k * dim, k) && !state.inertia.is_nan() && check_centroids(&state.centroids, dim).is_ok();
        // The file of a longer fit does not hold the state after `max_iter` iterations.
        (sound && state.n_iter <= options.max_iter).then_some(state)
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
            (ROUNDING.into(), self.kernel.rounding().into()),
        ]);
        write(self.path, &tensors, &metadata).map(drop)
    }
}

/// The fastest kernel for the rows that rounds as the file at `path` says, if `kernel` does not.
fn other_kernel(path: &Path, rows: RowSet, kernel: Kernel) -> Option<Kernel> {
    let file = TensorFile::open_sound(path, &|| Ok(())).ok()?;
    let rounding = file.header().metadata.get(ROUNDING)?;
    let (dtype, dim) = (rows.dtype(), rows.source.dim());
    let suits = |other: Kernel| other.rounding() == rounding && other.takes(dtype) && other.has_room_for(dim);
    let fastest = || Kernel::available().rev().map(|(other, _)| other).find(|&other| suits(other));
    (kernel.rounding() != rounding).then(fastest)?
}

/// A hash of the rows, and of all options that change the bits of an iteration. Threads and max_iter do not.
fn fingerprint(rows: RowSet, options: &Options, kernel: &str, supervisor: &Supervisor) -> Result<String> {
    let mut hash = Xxh3::new();
    let source = rows.source;
    let shape = (source.len(), source.dim(), source.dtype().name());
    let numbers = (options.n_clusters, options.tol.to_bits(), options.random_state, options.train_rows);
    hash.update(format!("{shape:?} {numbers:?} {} {kernel}", options.unit_normalize).as_bytes());
    match &options.init {
        Init::PlusPlus => hash.update(b"k-means++"),
        Init::Centroids(given) => hash.update(bytemuck::cast_slice(given)),
    }
    if let Some(weights) = &options.weights {
        hash.update(bytemuck::cast_slice(weights));
    }
    match source {
        Source::Store { store, len, .. } => {
            for index in 0..len.div_ceil(store.rows_per_shard()) {
                supervisor.check()?;
                hash.update(store.shard_header(index)?.file.recorded_checksum()?.as_bytes());
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
