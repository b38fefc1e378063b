//! The votes and scores of the rows of a sweep, and the rows picked by them.

use std::path::PathBuf;

use gdig_core::kmeans::LabelFiles;
use gdig_core::resample::resample;
use gdig_core::sweep::{self as core, By, Drawable, Judge, Score, Tasks, Voters};
use gdig_core::{Dtype, Error, Result};
use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::array::Array;
use crate::errors::to_py;
use crate::limit::Limit;
use crate::resample::quotas;
use crate::store::Store;
use crate::supervised::supervised;

type Counts<'py> = Bound<'py, PyArray1<u64>>;

fn open(labels: Option<&PathBuf>, rows: usize) -> Result<Option<LabelFiles>> {
    let Some(directory) = labels else { return Ok(None) };
    let files = LabelFiles::open(directory)?;
    if files.len() != rows {
        let what = format!("labels of {} rows: expected {rows}, one for each row of the sweep", files.len());
        return Err(Error::Store { path: directory.clone(), what });
    }
    Ok(Some(files))
}

/// The task of each seed. Without tasks every seed votes.
fn tasks(of_seed: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Tasks>> {
    let Some(of_seed) = of_seed else { return Ok(None) };
    let of_seed = Array::new(of_seed, "tasks")?.one_dimensional(&[Dtype::I64])?;
    Ok(Some(Tasks::new(of_seed.typed()).map_err(to_py)?))
}

fn voters(tasks: &Option<Tasks>) -> Voters<'_> {
    tasks.as_ref().map_or(Voters::Seeds, Voters::Tasks)
}

fn score_named(name: &str) -> PyResult<Score> {
    match name {
        "mean" => Ok(Score::Mean),
        "steady" => Ok(Score::Steady),
        _ => Err(PyValueError::new_err(format!("score: expected 'mean' or 'steady', got {name:?}"))),
    }
}

/// Returns (rows, seeds, valid rows by votes, their tokens by votes, tokens of all rows, sum of the scores of valid rows).
#[pyfunction]
#[pyo3(signature = (store, score, tasks=None))]
pub fn survey<'py>(
    py: Python<'py>,
    store: &Store,
    score: &str,
    tasks: Option<&Bound<'py, PyAny>>,
) -> PyResult<(usize, usize, Counts<'py>, Counts<'py>, u64, f64)> {
    let (score, tasks) = (score_named(score)?, self::tasks(tasks)?);
    let judge = Judge { score, voters: voters(&tasks) };
    let survey = supervised(py, None, |supervisor| core::survey(&store.store, judge, supervisor))?;
    let (counts, tokens) = (PyArray1::from_vec(py, survey.counts), PyArray1::from_vec(py, survey.tokens));
    Ok((survey.rows, survey.n_seeds, counts, tokens, survey.all_tokens, survey.score))
}

/// The best rows, in order. `by` is a score, or "loss".
#[pyfunction]
pub fn best_rows<'py>(py: Python<'py>, store: &Store, by: &str, limit: Limit) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let by = match by {
        "loss" => By::Loss,
        score => By::Score(score_named(score)?),
    };
    let rows = supervised(py, None, |supervisor| core::best(&store.store, by, limit.0, supervisor))?;
    Ok(PyArray1::from_vec(py, rows))
}

/// The rows drawn from the clusters, in order. Inside a cluster the order is a score, or a hash.
#[pyfunction]
#[pyo3(signature = (store, labels, *, least_votes, by_score, quotas, limit, random_seed, tasks=None))]
#[allow(clippy::too_many_arguments)] // Each is one of the options of a selection.
pub fn draw_rows<'py>(
    py: Python<'py>,
    store: &Store,
    labels: Option<PathBuf>,
    least_votes: u32,
    by_score: Option<&str>,
    quotas: &str,
    limit: Limit,
    random_seed: u64,
    tasks: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let (quotas, tasks) = (self::quotas(quotas)?, self::tasks(tasks)?);
    let by_score = by_score.map(score_named).transpose()?;
    let rows = supervised(py, None, |supervisor| {
        let len = store.store.check_complete()?;
        let labels = open(labels.as_ref(), len)?;
        let rows = Drawable {
            store: &store.store,
            labels: labels.as_ref(),
            voters: voters(&tasks),
            least_votes,
            by_score,
            random_seed,
            len,
            supervisor,
        };
        resample(&rows, quotas, limit.0, random_seed, supervisor)
    })?;
    Ok(PyArray1::from_vec(py, rows))
}

/// The numbers of some rows: columns by name.
#[pyfunction]
#[pyo3(signature = (store, labels, rows, score, tasks=None))]
pub fn row_columns<'py>(
    py: Python<'py>,
    store: &Store,
    labels: Option<PathBuf>,
    rows: &Bound<'py, PyAny>,
    score: &str,
    tasks: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let tasks = self::tasks(tasks)?;
    let judge = Judge { score: score_named(score)?, voters: voters(&tasks) };
    let rows = Array::new(rows, "rows")?.one_dimensional(&[Dtype::I64])?;
    let rows: &[i64] = rows.typed();
    let values = supervised(py, None, |supervisor| {
        let labels = open(labels.as_ref(), store.store.check_complete()?)?;
        core::columns(&store.store, labels.as_ref(), rows, judge, supervisor)
    })?;
    let columns = PyDict::new(py);
    columns.set_item("votes", PyArray1::from_vec(py, values.votes))?;
    columns.set_item("score", PyArray1::from_vec(py, values.score))?;
    columns.set_item("loss", PyArray1::from_vec(py, values.loss))?;
    columns.set_item("tokens", PyArray1::from_vec(py, values.tokens))?;
    if labels.is_some() {
        columns.set_item("label", PyArray1::from_vec(py, values.label))?;
        columns.set_item("distance", PyArray1::from_vec(py, values.distance))?;
    }
    Ok(columns)
}
