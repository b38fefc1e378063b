//! The nearest neighbours of rows.

use gdig_core::neighbours::{self as core, Clusters, Graph, Options};
use gdig_core::simd::Kernel;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::to_py;
use crate::rows::RowsOrStore;
use crate::supervised::supervised;

type Lines<'py, T> = Bound<'py, PyArray2<T>>;

fn lines<'py>(py: Python<'py>, graph: Graph) -> PyResult<(Lines<'py, u32>, Lines<'py, f32>)> {
    let shape = [graph.neighbours.len() / graph.k, graph.k];
    let neighbours = PyArray1::from_vec(py, graph.neighbours).reshape(shape)?;
    Ok((neighbours, PyArray1::from_vec(py, graph.cosines).reshape(shape)?))
}

/// A graph from its two arrays.
pub fn graph(neighbours: &PyReadonlyArray2<u32>, cosines: &PyReadonlyArray2<f32>) -> PyResult<Graph> {
    if neighbours.shape() != cosines.shape() {
        let (expected, got) = (neighbours.shape(), cosines.shape());
        return Err(PyValueError::new_err(format!("cosines: expected shape {expected:?}, got {got:?}")));
    }
    let k = neighbours.shape()[1];
    Ok(Graph { k, neighbours: neighbours.as_slice()?.to_vec(), cosines: cosines.as_slice()?.to_vec() })
}

/// Returns (neighbours [n, k], cosines [n, k]).
#[pyfunction]
#[pyo3(signature = (x, k, *, kernel=None, n_threads=0, callback=None))]
pub fn neighbours<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    k: usize,
    kernel: Option<&str>,
    n_threads: usize,
    callback: Option<Bound<'py, PyAny>>,
) -> PyResult<(Lines<'py, u32>, Lines<'py, f32>)> {
    let rows = RowsOrStore::new(x)?;
    let (source, kernel) = (rows.source()?, Kernel::choose(kernel).map_err(to_py)?);
    let options = Options { k, kernel, n_threads };
    lines(py, supervised(py, callback, |supervisor| core::exact(&source, &options, supervisor))?)
}

/// Returns (neighbours [n, k], cosines [n, k], recall of the first 1 to k neighbours on the sample).
#[pyfunction]
#[pyo3(signature = (x, k, *, labels, centroids, n_probe, sample, random_seed, kernel=None, n_threads=0, callback=None))]
#[allow(clippy::too_many_arguments)] // As many as the search has options.
pub fn neighbours_by_clusters<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    k: usize,
    labels: PyReadonlyArray1<'py, u32>,
    centroids: PyReadonlyArray2<'py, f32>,
    n_probe: usize,
    sample: usize,
    random_seed: u64,
    kernel: Option<&str>,
    n_threads: usize,
    callback: Option<Bound<'py, PyAny>>,
) -> PyResult<(Lines<'py, u32>, Lines<'py, f32>, Vec<f64>)> {
    let rows = RowsOrStore::new(x)?;
    let (source, kernel) = (rows.source()?, Kernel::choose(kernel).map_err(to_py)?);
    let options = Options { k, kernel, n_threads };
    let clusters = Clusters { labels: labels.as_slice()?, centroids: centroids.as_slice()?, n_probe };
    let (graph, recall) = supervised(py, callback, |supervisor| {
        core::approximate(&source, &clusters, &options, sample, random_seed, supervisor)
    })?;
    let (neighbours, cosines) = lines(py, graph)?;
    Ok((neighbours, cosines, recall))
}
