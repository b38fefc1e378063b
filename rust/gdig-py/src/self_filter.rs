//! Self-Filter: the hardest rows, each of which lowers its neighbours.

use gdig_core::methods::self_filter as core;
use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::limit::Limit;
use crate::neighbours::graph;
use crate::rows::RowsOrStore;
use crate::supervised::supervised;

type Column<'py, T> = Bound<'py, PyArray1<T>>;
type Picked<'py> = (Column<'py, i64>, Column<'py, f32>, Column<'py, f32>, usize);

/// Returns (rows, their difficulties above the lowest, these after penalties, picked rows for which all rows were searched).
#[pyfunction]
#[pyo3(signature = (x, neighbours, cosines, *, difficulty, k, gamma, limit, tokens=None, n_threads=0, callback=None))]
#[allow(clippy::too_many_arguments)] // As many as the choice has options.
pub fn self_filter<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    neighbours: PyReadonlyArray2<'py, u32>,
    cosines: PyReadonlyArray2<'py, f32>,
    difficulty: PyReadonlyArray1<'py, f32>,
    k: usize,
    gamma: f64,
    limit: Limit,
    tokens: Option<PyReadonlyArray1<'py, u32>>,
    n_threads: usize,
    callback: Option<Bound<'py, PyAny>>,
) -> PyResult<Picked<'py>> {
    let rows = RowsOrStore::new(x)?;
    let (source, graph) = (rows.source()?, graph(&neighbours, &cosines)?);
    let tokens = tokens.as_ref().map(|tokens| tokens.as_slice()).transpose()?;
    let options = core::Options { difficulty: difficulty.as_slice()?, k, gamma, limit: limit.0, tokens, n_threads };
    let picked = supervised(py, callback, |supervisor| core::self_filter(&source, &graph, &options, supervisor))?;
    let (difficulty, penalised) = (PyArray1::from_vec(py, picked.difficulty), PyArray1::from_vec(py, picked.penalised));
    Ok((PyArray1::from_vec(py, picked.rows), difficulty, penalised, picked.searched))
}
