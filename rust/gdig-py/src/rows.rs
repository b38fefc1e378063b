//! Rows that Python hands over.

use gdig_core::rows::Source;
use pyo3::prelude::*;

use crate::array::Array;
use crate::errors::to_py;
use crate::store::Store;

/// The rows that Python handed over, held while the core reads them.
pub enum RowsOrStore<'py> {
    Array(Array<'py>),
    Store(Bound<'py, Store>),
}

impl<'py> RowsOrStore<'py> {
    pub fn new(x: &Bound<'py, PyAny>) -> PyResult<RowsOrStore<'py>> {
        match x.cast::<Store>() {
            Ok(store) => Ok(RowsOrStore::Store(store.clone())),
            Err(_) => Ok(RowsOrStore::Array(Array::new(x, "x")?)),
        }
    }

    pub fn source(&self) -> PyResult<Source<'_>> {
        match self {
            RowsOrStore::Array(array) => Ok(Source::Array(array.rows()?)),
            RowsOrStore::Store(store) => Source::store(&store.get().store).map_err(to_py),
        }
    }
}
