//! The votes and scores of the rows of a sweep, and the rows picked by them.

use std::path::PathBuf;

use gdig_core::kmeans::LabelFiles;
use gdig_core::resample::resample;
use gdig_core::sweep::{self as core, By, Drawable, Judge, Order, Score, Tasks, Voters};
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
type Surveyed<'py> = (usize, usize, Counts<'py>, Counts<'py>, u64, f64, f64);

fn open(labels: Option<&PathBuf>, rows: usize) -> Result<Option<LabelFiles>> {
    let Some(directory) = labels else { return Ok(None) };
    let files = LabelFiles::open(directory)?;
    if files.len() != rows {
        let what = format!("labels of {} rows: expected {rows}, one for each row of the sweep", files.len());
        return Err(Error::Store { path: directory.clone(), what });
    }
    Ok(Some(files))
}

fn score_named(name: &str) -> PyResult<Score> {
    match name {
        "mean" => Ok(Score::Mean),
        "steady" => Ok(Score::Steady),
        _ => Err(PyValueError::new_err(format!("score: expected 'mean' or 'steady', got {name:?}"))),
    }
}

/// How influence becomes votes and a score, as Python says it: the attributes of an object.
#[derive(FromPyObject)]
pub struct JudgeObject<'py> {
    score: String,
    tasks: Option<Bound<'py, PyAny>>,
    baselines: Option<Bound<'py, PyAny>>,
    cuts: Option<Bound<'py, PyAny>>,
}

/// The same, checked, with the memory that a `Judge` borrows.
struct OwnedJudge {
    score: Score,
    tasks: Option<Tasks>,
    baselines: Vec<f64>,
    cuts: Vec<f64>,
}

impl OwnedJudge {
    fn new(judge: &JudgeObject<'_>) -> PyResult<OwnedJudge> {
        Ok(OwnedJudge {
            score: score_named(&judge.score)?,
            tasks: tasks(judge.tasks.as_ref())?,
            baselines: floats(judge.baselines.as_ref(), "baselines")?,
            cuts: floats(judge.cuts.as_ref(), "cuts")?,
        })
    }

    fn borrowed(&self) -> Judge<'_> {
        Judge { score: self.score, voters: voters(&self.tasks), baselines: &self.baselines, cuts: &self.cuts }
    }
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

fn floats(values: Option<&Bound<'_, PyAny>>, name: &str) -> PyResult<Vec<f64>> {
    let Some(values) = values else { return Ok(Vec::new()) };
    Ok(Array::new(values, name)?.one_dimensional(&[Dtype::F64])?.typed().to_vec())
}

/// The mean influence on each seed over the valid rows.
#[pyfunction]
pub fn seed_means<'py>(py: Python<'py>, store: &Store) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let means = supervised(py, None, |supervisor| core::seed_means(&store.store, supervisor))?;
    Ok(PyArray1::from_vec(py, means))
}

/// Returns (rows, seeds, valid rows by votes, their tokens by votes, tokens of all rows, scores, squares of scores). The
/// last two are sums over the valid rows.
#[pyfunction]
pub fn survey<'py>(py: Python<'py>, store: &Store, judge: JudgeObject<'py>) -> PyResult<Surveyed<'py>> {
    let judge = OwnedJudge::new(&judge)?;
    let survey = supervised(py, None, |supervisor| core::survey(&store.store, judge.borrowed(), supervisor))?;
    let (counts, tokens) = (PyArray1::from_vec(py, survey.counts), PyArray1::from_vec(py, survey.tokens));
    Ok((survey.rows, survey.n_seeds, counts, tokens, survey.all_tokens, survey.score, survey.score_squares))
}

/// The best rows, in order: by score where there is a judge, else by loss.
#[pyfunction]
pub fn best_rows<'py>(
    py: Python<'py>,
    store: &Store,
    judge: Option<JudgeObject<'py>>,
    limit: Limit,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let judge = judge.as_ref().map(OwnedJudge::new).transpose()?;
    let by = judge.as_ref().map_or(By::Loss, |judge| By::Score(judge.borrowed()));
    let rows = supervised(py, None, |supervisor| core::best(&store.store, by, limit.0, supervisor))?;
    Ok(PyArray1::from_vec(py, rows))
}

/// The rows drawn from the clusters, in order. Inside a cluster the order is a hash, the score, or score x scale with
/// Gumbel noise.
#[pyfunction]
#[pyo3(signature = (store, labels, judge, *, least_votes, order, scale, quotas, limit, random_seed))]
#[allow(clippy::too_many_arguments)] // Each is one of the options of a selection.
pub fn draw_rows<'py>(
    py: Python<'py>,
    store: &Store,
    labels: Option<PathBuf>,
    judge: JudgeObject<'py>,
    least_votes: u32,
    order: &str,
    scale: f64,
    quotas: &str,
    limit: Limit,
    random_seed: u64,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let (quotas, judge) = (self::quotas(quotas)?, OwnedJudge::new(&judge)?);
    let order = match order {
        "random" => Order::Hash,
        "score" => Order::Score,
        "gumbel" => Order::Gumbel { scale },
        _ => return Err(PyValueError::new_err(format!("order: expected random, score or gumbel, got {order:?}"))),
    };
    let rows = supervised(py, None, |supervisor| {
        let len = store.store.check_complete()?;
        let labels = open(labels.as_ref(), len)?;
        let rows = Drawable {
            store: &store.store,
            labels: labels.as_ref(),
            judge: judge.borrowed(),
            least_votes,
            order,
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
pub fn row_columns<'py>(
    py: Python<'py>,
    store: &Store,
    labels: Option<PathBuf>,
    rows: &Bound<'py, PyAny>,
    judge: JudgeObject<'py>,
) -> PyResult<Bound<'py, PyDict>> {
    let judge = OwnedJudge::new(&judge)?;
    let rows = Array::new(rows, "rows")?.one_dimensional(&[Dtype::I64])?;
    let rows: &[i64] = rows.typed();
    let values = supervised(py, None, |supervisor| {
        let labels = open(labels.as_ref(), store.store.check_complete()?)?;
        core::columns(&store.store, labels.as_ref(), rows, judge.borrowed(), supervisor)
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
