//! Labels and distances of rows, in memory or shard by shard to a directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use super::arch::{Assigner, Scratch};
use super::source::{Block, Reader, RowSet};
use super::tally::{BadRow, Tally};
use super::{check_centroids, first_error, thread_pool, Kernel, Source};
use crate::interrupt::{Progress, Supervisor};
use crate::store::{shard_name, sync_directory, write, TensorData, TensorFile};
use crate::{Dtype, Error, Result};

/// Label of a row that is invalid.
pub const INVALID: u32 = u32::MAX;
/// Rows that a worker takes at once.
const STEP: usize = 2048;
const MADE_FROM: &str = "made_from";

/// What prediction needs beside the rows.
pub struct Model<'a> {
    /// [K, dim].
    pub centroids: &'a [f32],
    pub unit_normalize: bool,
    /// `None`: the fastest for the rows.
    pub kernel: Option<Kernel>,
    /// 0: as many as the machine has.
    pub n_threads: usize,
}

impl Model<'_> {
    fn check(&self, source: &Source) -> Result<()> {
        let (len, dim) = (self.centroids.len(), source.dim());
        if len == 0 || len % dim != 0 {
            return Err(Error::input(format!("rows have {dim} columns: expected finite centroids [K, {dim}]")));
        }
        check_centroids(self.centroids, dim).map_err(Error::input)
    }
}

/// The nearest centroid of each row [len], and optionally the distance to it; `INVALID` and NaN for invalid rows.
pub fn predict(source: &Source, model: &Model, supervisor: &Supervisor) -> Result<(Vec<u32>, Vec<f32>)> {
    model.check(source)?;
    let valid = source.valid()?;
    let rows = RowSet { source, list: None, valid: valid.as_deref(), unit_normalize: model.unit_normalize };
    let assigner = Assigner::new(rows.kernel(model.kernel), model.centroids, source.dim(), rows.dtype())?;
    thread_pool(model.n_threads)?.install(|| predict_range(rows, 0, rows.len(), model, &assigner, supervisor))
}

fn predict_range(
    rows: RowSet,
    start: usize,
    stop: usize,
    model: &Model,
    assigner: &Assigner,
    supervisor: &Supervisor,
) -> Result<(Vec<u32>, Vec<f32>)> {
    let (mut labels, mut distances) = (vec![INVALID; stop - start], vec![f32::NAN; stop - start]);
    let step = |(number, (labels, distances)): (usize, (&mut [u32], &mut [f32]))| {
        let (mut reader, mut block, mut scratch) = (Reader::new(rows), Block::default(), Scratch::default());
        let (mut tally, mut found) = (Tally::new(None), Vec::new());
        let step_start = start + number * STEP;
        for first in (0..labels.len()).step_by(assigner.block_rows()) {
            supervisor.check()?;
            let last = labels.len().min(first + assigner.block_rows());
            let view = reader.view(step_start + first, step_start + last, &mut block)?;
            found.resize(view.rows.len(), 0);
            assigner.assign(view.rows, view.ahead, &mut found, &mut scratch);
            if let Err(BadRow(i)) = tally.measure(view.rows, &found, model.centroids) {
                let position = view.positions[i];
                return Err(reader.complaint(position));
            }
            for ((&label, distance), &position) in found.iter().zip(&tally.distances).zip(view.positions) {
                labels[position - step_start] = label;
                distances[position - step_start] = distance.sqrt();
            }
        }
        Ok(())
    };
    let steps = labels.par_chunks_mut(STEP).zip(distances.par_chunks_mut(STEP)).enumerate();
    first_error(steps.map(step).collect())?;
    Ok((labels, distances))
}

/// Write `labels` [n] uint32 and `distances` [n] float32 to one file for each shard of the source (for an array: for
/// each `rows_per_shard` rows). A file that is there and was made from the same rows and centroids is kept.
pub fn predict_to(
    source: &Source,
    model: &Model,
    directory: &Path,
    rows_per_shard: usize,
    supervisor: &Supervisor,
) -> Result<Vec<PathBuf>> {
    model.check(source)?;
    let rows_per_shard = if let Source::Store { store, .. } = source { store.rows_per_shard() } else { rows_per_shard };
    if rows_per_shard == 0 {
        return Err(Error::input("rows_per_shard: expected at least 1, got 0"));
    }
    if directory.join("store.json").exists() {
        return Err(Error::store(directory, "holds a store: labels would replace its shards"));
    }
    fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
    sync_directory(directory)?;
    let valid = source.valid()?;
    let rows = RowSet { source, list: None, valid: valid.as_deref(), unit_normalize: model.unit_normalize };
    let assigner = Assigner::new(rows.kernel(model.kernel), model.centroids, source.dim(), rows.dtype())?;
    let pool = thread_pool(model.n_threads)?;
    let mut paths = Vec::new();
    for start in (0..source.len()).step_by(rows_per_shard) {
        supervisor.check()?;
        let stop = source.len().min(start + rows_per_shard);
        let path = directory.join(shard_name(start / rows_per_shard));
        let made_from = fingerprint(rows, model, start, stop, supervisor)?;
        if !is_done(&path, &made_from) {
            let (labels, distances) =
                pool.install(|| predict_range(rows, start, stop, model, &assigner, supervisor))?;
            let shape = || vec![stop - start];
            let (labels, distances) = (bytemuck::cast_slice(&labels), bytemuck::cast_slice(&distances));
            let tensors = [
                TensorData { name: "labels", dtype: Dtype::U32, shape: shape(), bytes: labels },
                TensorData { name: "distances", dtype: Dtype::F32, shape: shape(), bytes: distances },
            ];
            let first_row = start.to_string();
            let metadata = BTreeMap::from([("first_row".into(), first_row), (MADE_FROM.into(), made_from)]);
            write(&path, &tensors, &metadata)?;
        }
        paths.push(path);
        supervisor.report(Progress::Rows { done: stop, total: source.len() });
    }
    remove_surplus(directory, paths.len())?;
    Ok(paths)
}

fn is_done(path: &Path, made_from: &str) -> bool {
    path.exists()
        && TensorFile::open(path).is_ok_and(|file| {
            file.header().metadata.get(MADE_FROM).map(String::as_str) == Some(made_from)
                && file.verify(&|| Ok(())).is_ok()
        })
}

/// Shards of an earlier, longer source.
fn remove_surplus(directory: &Path, n_shards: usize) -> Result<()> {
    for index in crate::store::shard_indices(directory)? {
        if index >= n_shards {
            let path = directory.join(shard_name(index));
            fs::remove_file(&path).map_err(Error::io(&path, "delete"))?;
        }
    }
    Ok(())
}

/// Of the centroids and the rows `start..stop`: of a store's shard its checksum stands for them.
fn fingerprint(rows: RowSet, model: &Model, start: usize, stop: usize, supervisor: &Supervisor) -> Result<String> {
    let mut hash = Xxh3::new();
    hash.update(bytemuck::cast_slice(model.centroids));
    // Kernels round differently, so labels of one are not another's.
    hash.update(rows.kernel(model.kernel).rounding().as_bytes());
    hash.update(&[u8::from(model.unit_normalize)]);
    hash.update(&(start as u64).to_le_bytes());
    hash.update(&(stop as u64).to_le_bytes());
    supervisor.check()?;
    match rows.source {
        Source::Array(rows) => rows.slice(start, stop).hash_into(&mut hash),
        Source::Store { store, .. } => {
            hash.update(store.shard(start / store.rows_per_shard())?.file.recorded_checksum()?.as_bytes());
        }
    }
    Ok(format!("{:016x}", hash.digest()))
}
