//! Round robin over a sweep, an array, or a matrix that a function makes.

use gdig_core::methods::round_robin::round_robin as core;
use gdig_core::methods::sorted_columns::Options;
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::relevance::with_matrix;

type Picked<'py> =
    (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<u64>>, Bound<'py, PyArray1<f32>>, usize);

/// Returns (rows, the seed that took each, its rank in that seed's column, its number there, the number of seeds without
/// a turn). `tasks` has the seeds of each task. `budget` counts rows.
#[pyfunction]
#[pyo3(signature = (matrix, tasks, budget, *, valid=None, make=None, n_threads=0))]
pub fn round_robin<'py>(
    py: Python<'py>,
    matrix: &Bound<'py, PyAny>,
    tasks: Vec<Vec<usize>>,
    budget: usize,
    valid: Option<&Bound<'py, PyAny>>,
    make: Option<&Bound<'py, PyAny>>,
    n_threads: usize,
) -> PyResult<Picked<'py>> {
    let n_seeds = tasks.iter().map(Vec::len).sum();
    let options = Options { n_threads, ..Options::new(budget) };
    let make = make.map(|make| (make, n_seeds));
    let picked = with_matrix(py, matrix, valid, make, |matrix, supervisor| core(matrix, &tasks, &options, supervisor))?;
    let (rows, seeds) = (PyArray1::from_vec(py, picked.rows), PyArray1::from_vec(py, picked.seeds));
    Ok((rows, seeds, PyArray1::from_vec(py, picked.ranks), PyArray1::from_vec(py, picked.values), picked.flat))
}
