//! k-means over an array or a store.

use std::path::PathBuf;

use gdig_core::kmeans::{self, Fitted, Init, Model, Options};
use gdig_core::simd::Kernel;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::errors::to_py;
use crate::peers::PyPeers;
use crate::rows::RowsOrStore;
use crate::store::{damage_to_py, Damage, Store};
use crate::supervised::supervised;

type Centers<'py> = Bound<'py, PyArray2<f32>>;
type Labels<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f32>>);

/// Returns (centroids [K, dim], inertia, iterations, counts [K]); None on every rank but 0.
#[pyfunction]
#[pyo3(signature = (x, n_clusters, *, init, max_iter, tol, random_state, train_rows, unit_normalize, n_threads, kernel, callback, resume_file, peers=None, weights=None))]
#[allow(clippy::too_many_arguments, clippy::type_complexity)] // As many as KMeans has options.
pub fn kmeans_fit<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    n_clusters: usize,
    init: Option<PyReadonlyArray2<'py, f32>>,
    max_iter: usize,
    tol: f64,
    random_state: u64,
    train_rows: Option<usize>,
    unit_normalize: bool,
    n_threads: usize,
    kernel: Option<&str>,
    callback: Option<Bound<'py, PyAny>>,
    resume_file: Option<PathBuf>,
    peers: Option<Bound<'py, PyAny>>,
    weights: Option<PyReadonlyArray1<'py, f32>>,
) -> PyResult<Option<(Centers<'py>, f64, usize, Bound<'py, PyArray1<u64>>)>> {
    let rows = RowsOrStore::new(x)?;
    let source = rows.source()?;
    let init = match init {
        None => Init::PlusPlus,
        Some(centroids) => Init::Centroids(centroids.as_array().iter().copied().collect()),
    };
    let kernel = Kernel::choose(kernel).map_err(to_py)?;
    let options = Options {
        n_clusters,
        init,
        max_iter,
        tol,
        random_state,
        train_rows,
        unit_normalize,
        kernel,
        n_threads,
        weights: weights.map(|weights| weights.as_array().to_vec()),
        resume_file,
    };
    let fitted = match peers.as_ref().map(PyPeers::new).transpose()? {
        None => supervised(py, callback, |supervisor| kmeans::fit(&source, &options, supervisor))?,
        Some(peers) if peers.rank == 0 => {
            let result =
                supervised(py, callback, |supervisor| kmeans::fit_with(&source, &options, Some(&peers), supervisor));
            peers.result(result)?
        }
        Some(peers) => {
            let result = supervised(py, callback, |supervisor| kmeans::help(&source, &options, &peers, supervisor));
            peers.result(result)?;
            return Ok(None);
        }
    };
    let Fitted { centroids, inertia, n_iter, counts } = fitted;
    let centroids = PyArray1::from_vec(py, centroids).reshape([n_clusters, source.dim()])?;
    Ok(Some((centroids, inertia, n_iter, PyArray1::from_vec(py, counts))))
}

/// Returns (labels [n], distances [n]).
#[pyfunction]
pub fn kmeans_predict<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    centroids: PyReadonlyArray2<'py, f32>,
    unit_normalize: bool,
    n_threads: usize,
    kernel: Option<&str>,
) -> PyResult<Labels<'py>> {
    let rows = RowsOrStore::new(x)?;
    let (source, kernel) = (rows.source()?, Kernel::choose(kernel).map_err(to_py)?);
    let model = Model { centroids: centroids.as_slice()?, unit_normalize, kernel, n_threads };
    let (labels, distances) = supervised(py, None, |supervisor| kmeans::predict(&source, &model, supervisor))?;
    Ok((PyArray1::from_vec(py, labels), PyArray1::from_vec(py, distances)))
}

/// Returns the label files, written or already there, in order.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // As many as KMeans has options for it.
pub fn kmeans_write_labels<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    centroids: PyReadonlyArray2<'py, f32>,
    unit_normalize: bool,
    n_threads: usize,
    kernel: Option<&str>,
    directory: PathBuf,
    rows_per_shard: usize,
    callback: Option<Bound<'py, PyAny>>,
    shards: Option<(usize, usize)>,
) -> PyResult<Vec<PathBuf>> {
    let rows = RowsOrStore::new(x)?;
    let (source, kernel) = (rows.source()?, Kernel::choose(kernel).map_err(to_py)?);
    let model = Model { centroids: centroids.as_slice()?, unit_normalize, kernel, n_threads };
    let shards = shards.map(|(start, stop)| start..stop);
    supervised(py, callback, |supervisor| {
        kmeans::write_labels(&source, &model, &directory, rows_per_shard, shards, supervisor)
    })
}

/// (shard, (state, what is wrong)) of each label file that is not sound, or not of these rows and centroids. None for
/// the centroids accepts any.
#[pyfunction]
pub fn kmeans_label_damage(
    py: Python<'_>,
    store: &Bound<'_, Store>,
    n_rows: usize,
    centroids: Option<PyReadonlyArray2<'_, f32>>,
    unit_normalize: bool,
    directory: PathBuf,
) -> PyResult<Vec<(usize, Damage)>> {
    let store = &store.get().store;
    let centroids = centroids.as_ref().map(|centroids| centroids.as_slice()).transpose()?;
    let centroids = centroids.map(|centroids| (centroids, unit_normalize));
    let damage =
        supervised(py, None, |supervisor| kmeans::label_damage(store, n_rows, centroids, &directory, supervisor))?;
    Ok(damage.into_iter().map(|(index, damage)| (index, damage_to_py(damage))).collect())
}

/// The names of the kernels of this machine, the slowest first.
#[pyfunction]
pub fn kernels() -> Vec<&'static str> {
    Kernel::available().map(|(_, name)| name).collect()
}
