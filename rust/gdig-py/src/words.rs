//! The words that rows share with an evaluation set.

use gdig_core::words as core;
use pyo3::prelude::*;

use crate::supervised::{detached, supervised};

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

    /// (place among `rows`, entry, kind, words) of each row that shares words with an entry.
    #[pyo3(signature = (rows, *, n_threads=0))]
    fn find(
        &self,
        py: Python<'_>,
        rows: Vec<Vec<String>>,
        n_threads: usize,
    ) -> PyResult<Vec<(usize, u32, &'static str, String)>> {
        let shared = supervised(py, None, |supervisor| self.set.find(&rows, n_threads, supervisor))?;
        let shared = shared.into_iter().enumerate().filter_map(|(place, shared)| shared.map(|shared| (place, shared)));
        Ok(shared.map(|(place, shared)| (place, shared.entry, shared.kind.name(), shared.words)).collect())
    }
}
