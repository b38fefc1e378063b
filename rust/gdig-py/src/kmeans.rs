//! k-means over an array or a store.

use std::path::PathBuf;
use std::sync::Mutex;

use gdig_core::kmeans::{self, Fitted, Init, Kernel, Model, Options, Others, Source};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::array::Array;
use crate::errors::to_py;
use crate::run::supervised;
use crate::store::Store;

/// The rows that Python handed over, held while the core reads them.
pub enum Held<'py> {
    Array(Array<'py>),
    Store(Bound<'py, Store>),
}

impl<'py> Held<'py> {
    pub fn new(x: &Bound<'py, PyAny>) -> PyResult<Held<'py>> {
        match x.cast::<Store>() {
            Ok(store) => Ok(Held::Store(store.clone())),
            Err(_) => Ok(Held::Array(Array::new(x, "x")?)),
        }
    }

    pub fn source(&self) -> PyResult<Source<'_>> {
        match self {
            Held::Array(array) => Ok(Source::Array(array.rows()?)),
            Held::Store(store) => Source::store(&store.get().store).map_err(to_py),
        }
    }
}

type Centers<'py> = Bound<'py, PyArray2<f32>>;
type Labels<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f32>>);

/// Other processes, as an object of Python's says: `rank`, `world`, and the methods of `Others`, bytes being uint8 arrays.
struct Peers {
    object: Py<PyAny>,
    rank: usize,
    world: usize,
    raised: Mutex<Option<PyErr>>,
}

impl Peers {
    fn new(object: &Bound<'_, PyAny>) -> PyResult<Peers> {
        let (rank, world) = (object.getattr("rank")?.extract()?, object.getattr("world")?.extract()?);
        Ok(Peers { object: object.clone().unbind(), rank, world, raised: Mutex::default() })
    }

    /// Call into Python from a thread of the core; what it raises ends the work, and is raised where that was called.
    fn call<T>(&self, work: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> gdig_core::Result<T> {
        Python::attach(|py| work(self.object.bind(py))).map_err(|error| {
            *self.raised.lock().expect("no thread panics with the lock") = Some(error);
            gdig_core::Error::Interrupted
        })
    }

    fn result<T>(self, result: PyResult<T>) -> PyResult<T> {
        match self.raised.into_inner().expect("no thread panics with the lock") {
            Some(error) => Err(error),
            None => result,
        }
    }
}

impl Others for Peers {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn give(&self, centroids: &[f32]) -> gdig_core::Result<()> {
        self.call(|object| object.call_method1("give", (PyArray1::from_slice(object.py(), centroids),)).map(drop))
    }

    fn take(&self) -> gdig_core::Result<Option<Vec<f32>>> {
        self.call(|object| {
            let found: Option<PyReadonlyArray1<f32>> = object.call_method0("take")?.extract()?;
            found.map(|array| Ok(array.as_slice()?.to_vec())).transpose()
        })
    }

    fn send(&self, bytes: &[u8]) -> gdig_core::Result<()> {
        self.call(|object| object.call_method1("send", (PyArray1::from_slice(object.py(), bytes),)).map(drop))
    }

    fn receive(&self, from: usize, n_bytes: usize) -> gdig_core::Result<Vec<u8>> {
        self.call(|object| {
            let bytes: PyReadonlyArray1<u8> = object.call_method1("receive", (from, n_bytes))?.extract()?;
            Ok(bytes.as_slice()?.to_vec())
        })
    }
}

/// (centroids [K, dim], inertia, iterations, counts [K]); None in a process that helps another one.
#[pyfunction]
#[pyo3(signature = (x, n_clusters, *, init, max_iter, tol, seed, train_rows, unit_normalize, n_threads, kernel, callback, checkpoint, others=None))]
#[allow(clippy::too_many_arguments, clippy::type_complexity)] // As many as KMeans has options.
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
    others: Option<Bound<'py, PyAny>>,
) -> PyResult<Option<(Centers<'py>, f64, usize, Bound<'py, PyArray1<u64>>)>> {
    let held = Held::new(x)?;
    let source = held.source()?;
    let init = match init {
        None => Init::PlusPlus,
        Some(centroids) => Init::Centroids(centroids.as_array().iter().copied().collect()),
    };
    let kernel = Kernel::choose(kernel).map_err(to_py)?;
    let options =
        Options { n_clusters, init, max_iter, tol, seed, train_rows, unit_normalize, kernel, n_threads, checkpoint };
    let fitted = match others.as_ref().map(Peers::new).transpose()? {
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
