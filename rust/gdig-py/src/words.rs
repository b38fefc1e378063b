//! The words that rows share with an evaluation set.

use gdig_core::words as core;
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::supervised::{detached, supervised};

type Column<'py, T> = Bound<'py, PyArray1<T>>;
/// Of each row that equals an entry: its place, and the entry.
type Equal<'py> = (Column<'py, i32>, Column<'py, i32>);
/// Of each run: the row's place, its text, the first word, the number of words, the run, the entry, the row's content.
type Runs<'py> = (
    Column<'py, i32>,
    Column<'py, i32>,
    Column<'py, i32>,
    Column<'py, i32>,
    Column<'py, u64>,
    Column<'py, i32>,
    Column<'py, u64>,
);

/// The runs of words of an evaluation set, whose entries have one text or more.
#[pyclass(module = "gdig._native", frozen)]
pub struct SharedWords {
    set: core::SharedWords,
}

#[pymethods]
impl SharedWords {
    #[new]
    fn new(py: Python<'_>, entries: Vec<Vec<String>>) -> PyResult<SharedWords> {
        detached(py, || Ok(SharedWords { set: core::SharedWords::new(&entries) }))
    }

    /// The runs that too many entries have.
    #[getter]
    fn common(&self) -> usize {
        self.set.common
    }

    /// The entries without a word.
    #[getter]
    fn empty(&self) -> usize {
        self.set.empty
    }

    /// The rows that equal an entry, and the runs that the others share with one, in their order.
    #[pyo3(signature = (rows, *, n_threads=0))]
    fn find<'py>(
        &self,
        py: Python<'py>,
        rows: Vec<Vec<String>>,
        n_threads: usize,
    ) -> PyResult<(Equal<'py>, Runs<'py>)> {
        let shared = supervised(py, None, |supervisor| self.set.find(&rows, n_threads, supervisor))?;
        let shared =
            || shared.iter().enumerate().filter_map(|(place, row)| row.as_ref().map(|row| (place as i32, row)));
        let equal: Vec<_> = shared().filter_map(|(place, row)| row.equal.map(|entry| (place, entry as i32))).collect();
        let runs: Vec<_> =
            shared().flat_map(|(place, row)| row.runs.iter().map(move |run| (place, row, run))).collect();
        Ok((
            (column(py, &equal, |row| row.0), column(py, &equal, |row| row.1)),
            (
                column(py, &runs, |(place, ..)| *place),
                column(py, &runs, |(.., run)| run.text as i32),
                column(py, &runs, |(.., run)| run.start as i32),
                column(py, &runs, |(.., run)| i32::from(run.words)),
                column(py, &runs, |(.., run)| run.run),
                column(py, &runs, |(.., run)| run.entry.map_or(-1, |entry| entry as i32)),
                column(py, &runs, |(_, row, _)| row.content),
            ),
        ))
    }

    /// Some words of a text, as the text has them: `n` from the word `start` on, or as many as there are.
    #[staticmethod]
    fn excerpt(text: &str, start: usize, n: usize) -> &str {
        core::excerpt(text, start, n)
    }
}

fn column<'py, R, T: numpy::Element>(py: Python<'py>, rows: &[R], value: impl Fn(&R) -> T) -> Column<'py, T> {
    PyArray1::from_vec(py, rows.iter().map(value).collect())
}
