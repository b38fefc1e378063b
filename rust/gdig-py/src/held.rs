//! Rows that are held to compare others with.

use std::sync::Mutex;

use gdig_core::neighbours::Held;
use gdig_core::{Dtype, Error, Result};
use half::f16;
use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::array::Array;
use crate::errors::to_py;
use crate::supervised::supervised;

type Nearest<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>);

/// Rows in float16, which are compared by cosine.
#[pyclass(module = "gdig._native")]
pub struct HeldRows {
    held: Mutex<Held>,
}

#[pymethods]
impl HeldRows {
    #[new]
    fn new(dim: usize) -> PyResult<HeldRows> {
        Ok(HeldRows { held: Mutex::new(Held::new(dim).map_err(to_py)?) })
    }

    fn __len__(&self) -> PyResult<usize> {
        self.with(|held| Ok(held.len()))
    }

    /// Hold the first `n` rows alone.
    fn truncate(&self, n: usize) -> PyResult<()> {
        self.with(|held| {
            held.truncate(n);
            Ok(())
        })
    }

    /// Hold more rows.
    fn add(&self, x: &Bound<'_, PyAny>) -> PyResult<()> {
        let x = self.rows(x)?;
        self.with(|held| held.add(x.typed()))
    }

    /// Returns the place of each row's nearest held row, -1 where no cosine exceeds the floor, and the cosine.
    #[pyo3(signature = (x, floor, *, n_threads=0))]
    fn nearest<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        floor: f32,
        n_threads: usize,
    ) -> PyResult<Nearest<'py>> {
        let x = self.rows(x)?;
        let rows: &[f16] = x.typed();
        let nearest = supervised(py, None, |supervisor| self.lock()?.nearest(rows, floor, n_threads, supervisor))?;
        Ok(to_arrays(py, &nearest))
    }

    /// Hold each row whose cosine with every held row is at most the floor, in order. Returns which rows these are.
    #[pyo3(signature = (x, floor, *, n_threads=0, callback=None))]
    fn admit<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        floor: f32,
        n_threads: usize,
        callback: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let x = self.rows(x)?;
        let rows: &[f16] = x.typed();
        let admitted = supervised(py, callback, |supervisor| self.lock()?.admit(rows, floor, n_threads, supervisor))?;
        Ok(PyArray1::from_vec(py, admitted))
    }
}

impl HeldRows {
    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Held>> {
        self.held.lock().map_err(|_| Error::input("these rows cannot be used after an error in another call"))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Held) -> Result<T>) -> PyResult<T> {
        self.lock().and_then(|mut held| work(&mut held)).map_err(to_py)
    }

    fn rows<'py>(&self, x: &Bound<'py, PyAny>) -> PyResult<Array<'py>> {
        let array = Array::new(x, "rows")?;
        let dim = self.with(|held| Ok(held.dim()))?;
        match (array.shape(), array.dtype) {
            (&[_, columns], Dtype::F16) if columns == dim => Ok(array),
            (shape, dtype) => Err(PyValueError::new_err(format!(
                "rows: expected float16 [n, {dim}], got {} of shape {shape:?}",
                dtype.name()
            ))),
        }
    }
}

fn to_arrays<'py>(py: Python<'py>, nearest: &[Option<gdig_core::neighbours::Near>]) -> Nearest<'py> {
    let rows = nearest.iter().map(|near| near.map_or(-1, |near| i64::from(near.row))).collect();
    let cosines = nearest.iter().map(|near| near.map_or(f32::NAN, |near| near.cosine)).collect();
    (PyArray1::from_vec(py, rows), PyArray1::from_vec(py, cosines))
}
