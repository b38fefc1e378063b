//! BIDS over a sweep or an array.

use gdig_core::methods::bids::bids as core;
use gdig_core::methods::sorted_columns::Options;
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::relevance::with_matrix;

type Picked<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f64>>, usize);

/// Returns (rows, the seed that each was picked for, its gain there, the number of seeds without a say). `budget` counts
/// rows.
#[pyfunction]
#[pyo3(signature = (influence, budget, valid=None, n_threads=0))]
pub fn bids<'py>(
    py: Python<'py>,
    influence: &Bound<'py, PyAny>,
    budget: usize,
    valid: Option<&Bound<'py, PyAny>>,
    n_threads: usize,
) -> PyResult<Picked<'py>> {
    let options = Options { n_threads, ..Options::new(budget) };
    let picked =
        with_matrix(py, influence, valid, None, |influence, supervisor| core(influence, &options, supervisor))?;
    let seeds = PyArray1::from_vec(py, picked.seeds);
    Ok((PyArray1::from_vec(py, picked.rows), seeds, PyArray1::from_vec(py, picked.gains), picked.flat))
}
