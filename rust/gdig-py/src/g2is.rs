//! G2IS: walks along the gradients.

use gdig_core::methods::g2is as core;
use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::limit::Limit;
use crate::neighbours::graph;
use crate::rows::RowsOrStore;
use crate::supervised::supervised;

type Column<'py, T> = Bound<'py, PyArray1<T>>;
type Picked<'py> = (Column<'py, i64>, Column<'py, u32>, Column<'py, u8>, Column<'py, f32>, Vec<bool>);

/// Returns (rows, their directions, whether each is a neighbour of the row before it, cosines to their directions; for each
/// direction whether its walk ended).
#[pyfunction]
#[pyo3(signature = (x, neighbours, cosines, *, directions, weights, ratio, limit, tokens=None, n_threads=0, callback=None))]
#[allow(clippy::too_many_arguments)] // As many as the walk has options.
pub fn g2is<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    neighbours: PyReadonlyArray2<'py, u32>,
    cosines: PyReadonlyArray2<'py, f32>,
    directions: PyReadonlyArray2<'py, f64>,
    weights: PyReadonlyArray1<'py, f64>,
    ratio: f64,
    limit: Limit,
    tokens: Option<PyReadonlyArray1<'py, u32>>,
    n_threads: usize,
    callback: Option<Bound<'py, PyAny>>,
) -> PyResult<Picked<'py>> {
    let rows = RowsOrStore::new(x)?;
    let (source, graph) = (rows.source()?, graph(&neighbours, &cosines)?);
    let tokens = tokens.as_ref().map(|tokens| tokens.as_slice()).transpose()?;
    let (directions, weights) = (directions.as_slice()?, weights.as_slice()?);
    let options = core::Options { directions, weights, ratio, limit: limit.0, tokens, n_threads };
    let picked = supervised(py, callback, |supervisor| core::g2is(&source, &graph, &options, supervisor))?;
    let directions = PyArray1::from_vec(py, picked.directions);
    let (by_neighbour, cosines) = (PyArray1::from_vec(py, picked.by_neighbour), PyArray1::from_vec(py, picked.cosines));
    Ok((PyArray1::from_vec(py, picked.rows), directions, by_neighbour, cosines, picked.ended))
}
