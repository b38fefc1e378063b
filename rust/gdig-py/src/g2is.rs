//! G2IS: a walk along the gradients.

use gdig_core::methods::{g2is as core, Costs};
use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::neighbours::graph;
use crate::rows::RowsOrStore;
use crate::supervised::supervised;

type Column<'py, T> = Bound<'py, PyArray1<T>>;
type Picked<'py> = (Column<'py, i64>, Column<'py, u32>, Column<'py, u8>, Column<'py, f32>, Vec<bool>);

/// (rows, direction of each, whether it is a neighbour of the row before, cosine to its direction; of each direction
/// whether its walk ended)
#[pyfunction]
#[pyo3(signature = (x, neighbours, cosines, *, directions, weights, ratio, budget, costs=None, n_threads=0, callback=None))]
#[allow(clippy::too_many_arguments)] // As many as the walk has options.
pub fn g2is<'py>(
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
) -> PyResult<Picked<'py>> {
    let held = RowsOrStore::new(x)?;
    let (source, graph) = (held.source()?, graph(&neighbours, &cosines)?);
    let costs = Costs(costs.as_ref().map(|costs| costs.as_slice()).transpose()?);
    let (directions, weights) = (directions.as_slice()?, weights.as_slice()?);
    let options = core::Options { directions, weights, ratio, budget, costs, n_threads };
    let picked = supervised(py, callback, |supervisor| core::g2is(&source, &graph, &options, supervisor))?;
    let directions = PyArray1::from_vec(py, picked.directions);
    let (by_neighbour, cosines) = (PyArray1::from_vec(py, picked.by_neighbour), PyArray1::from_vec(py, picked.cosines));
    Ok((PyArray1::from_vec(py, picked.rows), directions, by_neighbour, cosines, picked.ended))
}
