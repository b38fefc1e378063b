//! Facility location on a graph of neighbours.

use gdig_core::methods::facility::facility as core;
use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::neighbours::graph;
use crate::supervised::supervised;

type Picked<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f64>>);

/// Returns (rows, what each adds to the sum of all rows' coverage). `budget` counts rows.
#[pyfunction]
pub fn facility<'py>(
    py: Python<'py>,
    neighbours: PyReadonlyArray2<'py, u32>,
    cosines: PyReadonlyArray2<'py, f32>,
    valid: PyReadonlyArray1<'py, u8>,
    budget: usize,
) -> PyResult<Picked<'py>> {
    let (graph, valid) = (graph(&neighbours, &cosines)?, valid.as_slice()?);
    let picked = supervised(py, None, |supervisor| core(&graph, valid, budget, supervisor))?;
    Ok((PyArray1::from_vec(py, picked.rows), PyArray1::from_vec(py, picked.gains)))
}
