//! Matching pursuit in the clusters of a sweep.

use std::path::PathBuf;

use gdig_core::kmeans::Source;
use gdig_core::strategies::pursuit::{self, Limits, Options};
use gdig_core::verdicts::LabelFiles;
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::run::supervised;
use crate::store::Store;

type Column<'py, T> = Bound<'py, PyArray1<T>>;

/// (rows, their weights, whether the pursuit took them, clusters that gave some, those whose pursuit ended early, mean
/// residual)
#[pyfunction]
#[pyo3(signature = (store, labels, *, budget, seed, unit_normalize, ridge, tolerance, n_threads=0))]
#[allow(clippy::too_many_arguments, clippy::type_complexity)] // Each is one of the options of a selection.
pub fn pursue<'py>(
    py: Python<'py>,
    store: &Store,
    labels: PathBuf,
    budget: u64,
    seed: u64,
    unit_normalize: bool,
    ridge: f64,
    tolerance: f64,
    n_threads: usize,
) -> PyResult<(Column<'py, i64>, Column<'py, f64>, Column<'py, bool>, usize, usize, f64)> {
    let mut options = Options { n_threads, ..Options::new(budget, seed, unit_normalize) };
    options.limits = Limits { ridge, tolerance, ..options.limits };
    let pursued = supervised(py, None, |supervisor| {
        pursuit::pursue(&Source::store(&store.store)?, &LabelFiles::open(&labels)?, &options, supervisor)
    })?;
    let (rows, weights) = (PyArray1::from_vec(py, pursued.rows), PyArray1::from_vec(py, pursued.weights));
    let matched = PyArray1::from_vec(py, pursued.matched);
    Ok((rows, weights, matched, pursued.clusters, pursued.ended_early, pursued.residual))
}
