//! k-means over an array or a store.

use std::path::PathBuf;

use gdig_core::kmeans::{self, Fitted, Init, Kernel, Model, Options, Source};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::array::Array;
use crate::errors::to_py;
use crate::run::supervised;
use crate::store::Store;

/// The rows that Python handed over, held while the core reads them.
enum Held<'py> {
    Array(Array<'py>),
    Store(Bound<'py, Store>),
}

impl<'py> Held<'py> {
    fn new(x: &Bound<'py, PyAny>) -> PyResult<Held<'py>> {
        match x.cast::<Store>() {
            Ok(store) => Ok(Held::Store(store.clone())),
            Err(_) => Ok(Held::Array(Array::new(x, "x")?)),
        }
    }

    fn source(&self) -> PyResult<Source<'_>> {
        match self {
            Held::Array(array) => Ok(Source::Array(array.rows()?)),
            Held::Store(store) => Source::store(&store.get().store).map_err(to_py),
        }
    }
}

type Centers<'py> = Bound<'py, PyArray2<f32>>;
type Labels<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f32>>);

/// (centroids [K, dim], inertia, iterations, counts [K])
#[pyfunction]
#[pyo3(signature = (x, n_clusters, *, init, max_iter, tol, seed, train_rows, unit_normalize, n_threads, kernel, callback, checkpoint))]
#[allow(clippy::too_many_arguments)] // As many as KMeans has options.
pub fn kmeans_fit<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    n_clusters: usize,
    init: Option<PyReadonlyArray2<'py, f32>>,
    max_iter: usize,
    tol: f64,
    seed: u64,
    train_rows: Option<usize>,
    unit_normalize: bool,
    n_threads: usize,
    kernel: Option<&str>,
    callback: Option<Bound<'py, PyAny>>,
    checkpoint: Option<PathBuf>,
) -> PyResult<(Centers<'py>, f64, usize, Bound<'py, PyArray1<u64>>)> {
    let held = Held::new(x)?;
    let source = held.source()?;
    let init = match init {
        None => Init::PlusPlus,
        Some(centroids) => Init::Centroids(centroids.as_array().iter().copied().collect()),
    };
    let kernel = Kernel::choose(kernel).map_err(to_py)?;
    let options =
        Options { n_clusters, init, max_iter, tol, seed, train_rows, unit_normalize, kernel, n_threads, checkpoint };
    let fitted = supervised(py, callback, |supervisor| kmeans::fit(&source, &options, supervisor))?;
    let Fitted { centroids, inertia, n_iter, counts } = fitted;
    let centroids = PyArray1::from_vec(py, centroids).reshape([n_clusters, source.dim()])?;
    Ok((centroids, inertia, n_iter, PyArray1::from_vec(py, counts)))
}

/// (labels [n], distances [n])
#[pyfunction]
pub fn kmeans_predict<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    centroids: PyReadonlyArray2<'py, f32>,
    unit_normalize: bool,
    n_threads: usize,
    kernel: Option<&str>,
) -> PyResult<Labels<'py>> {
    let held = Held::new(x)?;
    let (source, kernel) = (held.source()?, Kernel::choose(kernel).map_err(to_py)?);
    let model = Model { centroids: centroids.as_slice()?, unit_normalize, kernel, n_threads };
    let (labels, distances) = supervised(py, None, |supervisor| kmeans::predict(&source, &model, supervisor))?;
    Ok((PyArray1::from_vec(py, labels), PyArray1::from_vec(py, distances)))
}

/// The files written or kept, in order.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // As many as KMeans has options for it.
pub fn kmeans_predict_to<'py>(
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
    let held = Held::new(x)?;
    let (source, kernel) = (held.source()?, Kernel::choose(kernel).map_err(to_py)?);
    let model = Model { centroids: centroids.as_slice()?, unit_normalize, kernel, n_threads };
    let shards = shards.map(|(start, stop)| start..stop);
    supervised(py, callback, |supervisor| {
        kmeans::predict_to(&source, &model, &directory, rows_per_shard, shards, supervisor)
    })
}

/// Names of the kernels that this machine has, the slowest first.
#[pyfunction]
pub fn kernels() -> Vec<&'static str> {
    Kernel::available().map(|(_, name)| name).collect()
}
