//! TAGCOS: matching pursuit in the clusters of a sweep.

use std::path::PathBuf;

use gdig_core::kmeans::LabelFiles;
use gdig_core::methods::tagcos::{self as core, Matching, Options};
use gdig_core::rows::Source;
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::store::Store;
use crate::supervised::supervised;

type Column<'py, T> = Bound<'py, PyArray1<T>>;

/// Returns (rows, their weights, whether the pursuit picked them, clusters that give rows, clusters whose pursuit ended early,
/// mean residual). `budget` counts rows.
#[pyfunction]
#[pyo3(signature = (store, labels, *, budget, random_seed, unit_normalize, ridge, tolerance, n_threads=0))]
#[allow(clippy::too_many_arguments, clippy::type_complexity)] // Each is one of the options of a selection.
pub fn tagcos<'py>(
    py: Python<'py>,
    store: &Store,
    labels: PathBuf,
    budget: u64,
    random_seed: u64,
    unit_normalize: bool,
    ridge: f64,
    tolerance: f64,
    n_threads: usize,
) -> PyResult<(Column<'py, i64>, Column<'py, f64>, Column<'py, bool>, usize, usize, f64)> {
    let mut options = Options { n_threads, ..Options::new(budget, random_seed, unit_normalize) };
    options.matching = Matching { ridge, tolerance, ..options.matching };
    let picked = supervised(py, None, |supervisor| {
        core::tagcos(&Source::store(&store.store)?, &LabelFiles::open(&labels)?, &options, supervisor)
    })?;
    let (rows, weights) = (PyArray1::from_vec(py, picked.rows), PyArray1::from_vec(py, picked.weights));
    let matched = PyArray1::from_vec(py, picked.matched);
    Ok((rows, weights, matched, picked.clusters, picked.ended_early, picked.residual))
}
