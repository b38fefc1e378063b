//! Draws from clusters, and the hash behind them.

use std::path::PathBuf;

use gdig_core::hash;
use gdig_core::kmeans::{LabelFiles, LabelRows};
use gdig_core::resample::{self as core, bottom_k, Arrays, Column, Labels, Priority, Quotas};
use gdig_core::{Dtype, Error, Limit};
use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::array::Array;
use crate::supervised::supervised;

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

pub fn quotas(name: &str) -> PyResult<Quotas> {
    Quotas::from_name(name).ok_or_else(|| {
        PyValueError::new_err(format!("quotas: expected 'equal', 'proportional' or 'sqrt', got {name:?}"))
    })
}

/// The drawn rows, in order. With `costs`, `budget` limits their sum; else it counts rows.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // As many as gdig.resample has.
pub fn resample<'py>(
    py: Python<'py>,
    labels: &Bound<'py, PyAny>,
    budget: u64,
    random_seed: u64,
    weights: Option<&Bound<'py, PyAny>>,
    priority: Option<&Bound<'py, PyAny>>,
    costs: Option<&Bound<'py, PyAny>>,
    quotas: &str,
) -> PyResult<Rows<'py>> {
    let quotas = self::quotas(quotas)?;
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
    let rows = supervised(py, None, |supervisor| {
        let rows = Arrays::new(labels, order, costs, random_seed)?;
        let limit = if costs.is_some() { Limit::Tokens(budget) } else { Limit::Rows(budget) };
        core::resample(&rows, quotas, limit, random_seed, supervisor)
    })?;
    Ok(PyArray1::from_vec(py, rows))
}

/// The drawn rows, in order, from a directory of label files.
#[pyfunction]
pub fn resample_files<'py>(
    py: Python<'py>,
    labels: PathBuf,
    budget: u64,
    random_seed: u64,
    quotas: &str,
) -> PyResult<Rows<'py>> {
    let quotas = self::quotas(quotas)?;
    let rows = supervised(py, None, |supervisor| {
        let files = LabelFiles::open(&labels)?;
        core::resample(
            &LabelRows { files: &files, random_seed, supervisor },
            quotas,
            Limit::Rows(budget),
            random_seed,
            supervisor,
        )
    })?;
    Ok(PyArray1::from_vec(py, rows))
}

/// The number of rows of each label in a directory of label files.
#[pyfunction]
pub fn label_counts(py: Python<'_>, labels: PathBuf) -> PyResult<Bound<'_, PyArray1<u64>>> {
    let counts = supervised(py, None, |supervisor| LabelFiles::open(&labels)?.counts(supervisor))?;
    Ok(PyArray1::from_vec(py, counts))
}

/// Of `n` rows, or of those with a nonzero byte in `eligible`, the `k` with the smallest hash; ascending.
#[pyfunction]
pub fn sample_rows<'py>(
    py: Python<'py>,
    n: u64,
    k: usize,
    random_seed: u64,
    eligible: Option<&Bound<'py, PyAny>>,
) -> PyResult<Rows<'py>> {
    let eligible = optional(eligible, "eligible", &[Dtype::U8])?;
    let eligible = eligible.as_ref().map(Array::bytes);
    let rows = supervised(py, None, |supervisor| {
        if eligible.is_some_and(|e| e.len() as u64 != n) {
            return Err(Error::input(format!(
                "eligible: expected {n} numbers, one for each row, got {}",
                eligible.map_or(0, <[u8]>::len)
            )));
        }
        let rows = (0..n).filter(|&row| eligible.is_none_or(|e| e[row as usize] != 0));
        Ok(bottom_k(rows, k, random_seed, supervisor)?.into_iter().map(|row| row as i64).collect())
    })?;
    Ok(PyArray1::from_vec(py, rows))
}

/// The hash of each (random seed, row).
#[pyfunction]
pub fn row_hash<'py>(
    py: Python<'py>,
    random_seed: u64,
    rows: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray1<u64>>> {
    let rows = Array::new(rows, "rows")?.one_dimensional(&[Dtype::I64])?;
    let rows: &[i64] = rows.typed();
    let hashes = py.detach(|| hash::row_hashes(random_seed, rows));
    Ok(PyArray1::from_vec(py, hashes))
}
