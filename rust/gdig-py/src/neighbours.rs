//! Neighbours, and the choices that go along them.

use gdig_core::kmeans::Kernel;
use gdig_core::strategies::neighbours::{self as core, Clusters, Graph, Options};
use gdig_core::strategies::{penalty, walk, Costs};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::to_py;
use crate::kmeans::Held;
use crate::run::supervised;

type Lines<'py, T> = Bound<'py, PyArray2<T>>;
type Column<'py, T> = Bound<'py, PyArray1<T>>;

fn lines<'py>(py: Python<'py>, graph: Graph) -> PyResult<(Lines<'py, u32>, Lines<'py, f32>)> {
    let shape = [graph.neighbours.len() / graph.k, graph.k];
    let neighbours = PyArray1::from_vec(py, graph.neighbours).reshape(shape)?;
    Ok((neighbours, PyArray1::from_vec(py, graph.cosines).reshape(shape)?))
}

fn graph(neighbours: &PyReadonlyArray2<u32>, cosines: &PyReadonlyArray2<f32>) -> PyResult<Graph> {
    if neighbours.shape() != cosines.shape() {
        let (expected, got) = (neighbours.shape(), cosines.shape());
        return Err(PyValueError::new_err(format!("cosines: expected shape {expected:?}, got {got:?}")));
    }
    let k = neighbours.shape()[1];
    Ok(Graph { k, neighbours: neighbours.as_slice()?.to_vec(), cosines: cosines.as_slice()?.to_vec() })
}

/// (neighbours [n, k], cosines [n, k])
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
    let held = Held::new(x)?;
    let (source, kernel) = (held.source()?, Kernel::choose(kernel).map_err(to_py)?);
    let options = Options { k, kernel, n_threads };
    lines(py, supervised(py, callback, |supervisor| core::exact(&source, &options, supervisor))?)
}

/// (neighbours [n, k], cosines [n, k], recall of the first 1 to k on the sample)
#[pyfunction]
#[pyo3(signature = (x, k, *, labels, centroids, n_probe, sample, seed, kernel=None, n_threads=0, callback=None))]
#[allow(clippy::too_many_arguments)] // As many as the search has options.
pub fn neighbours_by_clusters<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    k: usize,
    labels: PyReadonlyArray1<'py, u32>,
    centroids: PyReadonlyArray2<'py, f32>,
    n_probe: usize,
    sample: usize,
    seed: u64,
    kernel: Option<&str>,
    n_threads: usize,
    callback: Option<Bound<'py, PyAny>>,
) -> PyResult<(Lines<'py, u32>, Lines<'py, f32>, Vec<f64>)> {
    let held = Held::new(x)?;
    let (source, kernel) = (held.source()?, Kernel::choose(kernel).map_err(to_py)?);
    let options = Options { k, kernel, n_threads };
    let clusters = Clusters { labels: labels.as_slice()?, centroids: centroids.as_slice()?, n_probe };
    let (graph, recall) = supervised(py, callback, |supervisor| {
        core::approximate(&source, &clusters, &options, sample, seed, supervisor)
    })?;
    let (neighbours, cosines) = lines(py, graph)?;
    Ok((neighbours, cosines, recall))
}

type Walked<'py> = (Column<'py, i64>, Column<'py, u32>, Column<'py, u8>, Column<'py, f32>, Vec<bool>);

/// (rows, direction of each, whether it is a neighbour of the row before, cosine to its direction; of each direction
/// whether its walk ended)
#[pyfunction]
#[pyo3(signature = (x, neighbours, cosines, *, directions, weights, ratio, budget, costs=None, n_threads=0, callback=None))]
#[allow(clippy::too_many_arguments)] // As many as the walk has options.
pub fn gradient_walk<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    neighbours: PyReadonlyArray2<'py, u32>,
    cosines: PyReadonlyArray2<'py, f32>,
    directions: PyReadonlyArray2<'py, f64>,
    weights: PyReadonlyArray1<'py, f64>,
    ratio: f64,
    budget: u64,
    costs: Option<PyReadonlyArray1<'py, u32>>,
    n_threads: usize,
    callback: Option<Bound<'py, PyAny>>,
) -> PyResult<Walked<'py>> {
    let held = Held::new(x)?;
    let (source, graph) = (held.source()?, graph(&neighbours, &cosines)?);
    let costs = Costs(costs.as_ref().map(|costs| costs.as_slice()).transpose()?);
    let (directions, weights) = (directions.as_slice()?, weights.as_slice()?);
    let options = walk::Options { directions, weights, ratio, budget, costs, n_threads };
    let found = supervised(py, callback, |supervisor| walk::walk(&source, &graph, &options, supervisor))?;
    let directions = PyArray1::from_vec(py, found.directions);
    let (by_neighbour, cosines) = (PyArray1::from_vec(py, found.by_neighbour), PyArray1::from_vec(py, found.cosines));
    Ok((PyArray1::from_vec(py, found.rows), directions, by_neighbour, cosines, found.ended))
}

type Penalised<'py> = (Column<'py, i64>, Column<'py, f32>, Column<'py, f32>, usize);

/// (rows; difficulty above the lowest, and what penalties left of it, of each; rows for which all were searched)
#[pyfunction]
#[pyo3(signature = (x, neighbours, cosines, *, difficulty, k, gamma, budget, costs=None, n_threads=0, callback=None))]
#[allow(clippy::too_many_arguments)] // As many as the choice has options.
pub fn penalised_rows<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    neighbours: PyReadonlyArray2<'py, u32>,
    cosines: PyReadonlyArray2<'py, f32>,
    difficulty: PyReadonlyArray1<'py, f32>,
    k: usize,
    gamma: f64,
    budget: u64,
    costs: Option<PyReadonlyArray1<'py, u32>>,
    n_threads: usize,
    callback: Option<Bound<'py, PyAny>>,
) -> PyResult<Penalised<'py>> {
    let held = Held::new(x)?;
    let (source, graph) = (held.source()?, graph(&neighbours, &cosines)?);
    let costs = Costs(costs.as_ref().map(|costs| costs.as_slice()).transpose()?);
    let options = penalty::Options { difficulty: difficulty.as_slice()?, k, gamma, budget, costs, n_threads };
    let found = supervised(py, callback, |supervisor| penalty::choose(&source, &graph, &options, supervisor))?;
    let (difficulty, left) = (PyArray1::from_vec(py, found.difficulty), PyArray1::from_vec(py, found.left));
    Ok((PyArray1::from_vec(py, found.rows), difficulty, left, found.searched))
}
