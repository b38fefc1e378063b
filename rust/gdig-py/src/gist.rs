//! The scores of GIST over a sweep or an array.

use gdig_core::methods::gist::gist_scores as core;
use numpy::{PyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::relevance::with_matrix;

type Scores<'py> = (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<u32>>);

/// Returns (cosine of each row, -inf for an invalid one, and its task). `projection` is [seeds, components], `directions`
/// [tasks, components] of unit length.
#[pyfunction]
#[pyo3(signature = (influence, projection, directions, valid=None, n_threads=0))]
pub fn gist_scores<'py>(
    py: Python<'py>,
    influence: &Bound<'py, PyAny>,
    projection: PyReadonlyArray2<'py, f64>,
    directions: PyReadonlyArray2<'py, f64>,
    valid: Option<&Bound<'py, PyAny>>,
    n_threads: usize,
) -> PyResult<Scores<'py>> {
    let n_components = directions.shape()[1];
    let (projection, directions) = (projection.as_slice()?, directions.as_slice()?);
    let scores = with_matrix(py, influence, valid, None, |influence, supervisor| {
        core(influence, projection, directions, n_components, n_threads, supervisor)
    })?;
    Ok((PyArray1::from_vec(py, scores.cosine), PyArray1::from_vec(py, scores.task)))
}
