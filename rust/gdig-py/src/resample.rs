//! Draws from clusters, and the hash behind them.

use gdig_core::hash;
use gdig_core::resample::{self as core, bottom_k, Column, Labels, Priority};
use gdig_core::{Dtype, Error};
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::array::Array;
use crate::run::supervised;

type Rows<'py> = Bound<'py, PyArray1<i64>>;

fn column<'a>(array: &'a Array<'_>) -> Column<'a> {
    match array.dtype {
        Dtype::F32 => Column::F32(array.typed()),
        Dtype::F64 => Column::F64(array.typed()),
        Dtype::I32 => Column::I32(array.typed()),
        // `one_dimensional` has let no other dtype pass.
        _ => Column::I64(array.typed()),
    }
}

fn optional<'py>(array: Option<&Bound<'py, PyAny>>, name: &str, dtypes: &[Dtype]) -> PyResult<Option<Array<'py>>> {
    array.map(|array| Array::new(array, name)?.one_dimensional(dtypes)).transpose()
}

/// Rows chosen, in order.
#[pyfunction]
pub fn resample<'py>(
    py: Python<'py>,
    labels: &Bound<'py, PyAny>,
    budget: u64,
    seed: u64,
    weights: Option<&Bound<'py, PyAny>>,
    priority: Option<&Bound<'py, PyAny>>,
    costs: Option<&Bound<'py, PyAny>>,
) -> PyResult<Rows<'py>> {
    let labels = Array::new(labels, "labels")?.one_dimensional(&[Dtype::U32, Dtype::I32, Dtype::I64])?;
    let weights = optional(weights, "weights", &[Dtype::F32, Dtype::F64])?;
    let priority = optional(priority, "priority", &[Dtype::F32, Dtype::F64])?;
    let costs = optional(costs, "costs", &[Dtype::I32, Dtype::I64])?;
    let labels = match labels.dtype {
        Dtype::U32 => Labels::U32(labels.typed()),
        Dtype::I32 => Labels::I32(labels.typed()),
        _ => Labels::I64(labels.typed()),
    };
    let order = match (&weights, &priority) {
        (Some(weights), _) => Priority::Weights(column(weights)),
        (None, Some(priority)) => Priority::Values(column(priority)),
        (None, None) => Priority::Hash,
    };
    let costs = costs.as_ref().map(column);
    let rows = supervised(py, None, |supervisor| core::resample(labels, budget, seed, order, costs, supervisor))?;
    Ok(PyArray1::from_vec(py, rows))
}

/// Of `n` rows, or of those with a nonzero byte in `eligible`, the `k` with the smallest hash; ascending.
#[pyfunction]
pub fn sample_rows<'py>(
    py: Python<'py>,
    n: u64,
    k: usize,
    seed: u64,
    eligible: Option<&Bound<'py, PyAny>>,
) -> PyResult<Rows<'py>> {
    let eligible = optional(eligible, "eligible", &[Dtype::U8])?;
    let eligible = eligible.as_ref().map(Array::bytes);
    let rows = supervised(py, None, |supervisor| {
        if eligible.is_some_and(|e| e.len() as u64 != n) {
            return Err(Error::input(format!("eligible: expected one a row, {n}")));
        }
        let rows = (0..n).filter(|&row| eligible.is_none_or(|e| e[row as usize] != 0));
        Ok(bottom_k(rows, k, seed, supervisor)?.into_iter().map(|row| row as i64).collect())
    })?;
    Ok(PyArray1::from_vec(py, rows))
}

/// The hash of each (seed, row).
#[pyfunction]
pub fn row_hash<'py>(py: Python<'py>, seed: u64, rows: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<u64>>> {
    let rows = Array::new(rows, "rows")?.one_dimensional(&[Dtype::I64])?;
    let rows: &[i64] = rows.typed();
    let hashes = py.detach(|| hash::row_hashes(seed, rows));
    Ok(PyArray1::from_vec(py, hashes))
}
