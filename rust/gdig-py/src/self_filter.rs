//! Self-Filter: the hardest rows, each lowering its neighbours.

use gdig_core::methods::{self_filter as core, Costs};
use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::neighbours::graph;
use crate::rows::RowsOrStore;
use crate::supervised::supervised;

type Column<'py, T> = Bound<'py, PyArray1<T>>;
type Picked<'py> = (Column<'py, i64>, Column<'py, f32>, Column<'py, f32>, usize);

/// (rows; difficulty above the lowest, and what penalties left of it, of each; rows for which all were searched)
#[pyfunction]
#[pyo3(signature = (x, neighbours, cosines, *, difficulty, k, gamma, budget, costs=None, n_threads=0, callback=None))]
#[allow(clippy::too_many_arguments)] // As many as the choice has options.
pub fn self_filter<'py>(
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
) -> PyResult<Picked<'py>> {
    let held = RowsOrStore::new(x)?;
    let (source, graph) = (held.source()?, graph(&neighbours, &cosines)?);
    let costs = Costs(costs.as_ref().map(|costs| costs.as_slice()).transpose()?);
    let options = core::Options { difficulty: difficulty.as_slice()?, k, gamma, budget, costs, n_threads };
    let picked = supervised(py, callback, |supervisor| core::self_filter(&source, &graph, &options, supervisor))?;
    let (difficulty, penalised) = (PyArray1::from_vec(py, picked.difficulty), PyArray1::from_vec(py, picked.penalised));
    Ok((PyArray1::from_vec(py, picked.rows), difficulty, penalised, picked.searched))
}
