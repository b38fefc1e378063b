//! The matrix of a method that takes rows for seeds: an array, the influence of a sweep, or what a function makes.

use std::sync::{Arc, Mutex};

use gdig_core::interrupt::Supervisor;
use gdig_core::sweep::Influence;
use gdig_core::{Dtype, Error, Result};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::array::Array;
use crate::errors::to_py;
use crate::store::Store;
use crate::supervised::supervised;

/// Do `work` on the matrix.
///
/// `matrix` is a sweep, or float32 [rows, seeds] with `valid` uint8 [rows]. `make` is a function from the number of a
/// shard to float32 [rows of the shard, n_seeds], which takes the place of the sweep's influence.
pub fn with_matrix<'py, T: Send>(
    py: Python<'py>,
    matrix: &Bound<'py, PyAny>,
    valid: Option<&Bound<'py, PyAny>>,
    make: Option<(&Bound<'py, PyAny>, usize)>,
    work: impl FnOnce(&Influence, &Supervisor) -> Result<T> + Send,
) -> PyResult<T> {
    if let Ok(store) = matrix.cast::<Store>() {
        let store = &store.get().store;
        if valid.is_some() {
            return Err(PyValueError::new_err("valid: expected none with a store, because the store has its own"));
        }
        let Some((make, n_seeds)) = make else {
            return supervised(py, None, |supervisor| work(&Influence::sweep(store)?, supervisor));
        };
        let (make, raised) = (make.clone().unbind(), Mutex::new(None));
        // Neighbouring spans of rows lie in one shard, so the last shard is kept.
        let last: Mutex<Option<(usize, Arc<Vec<f32>>)>> = Mutex::new(None);
        let shard = |index: usize| {
            let mut last = last.lock().expect("no thread panics with the lock");
            if let Some((last_index, values)) = &*last {
                if *last_index == index {
                    return Ok(values.clone());
                }
            }
            let values = Python::attach(|py| made_by(py, &make, index)).map_err(|error| {
                *raised.lock().expect("no thread panics with the lock") = Some(error);
                Error::input("relevance: the function that makes it has raised an error")
            })?;
            let values = Arc::new(values);
            *last = Some((index, values.clone()));
            Ok(values)
        };
        let result = supervised(py, None, |supervisor| work(&Influence::made(store, n_seeds, &shard)?, supervisor));
        let raised = raised.into_inner().expect("no thread panics with the lock");
        return result.map_err(|error| raised.unwrap_or(error));
    }
    let array = Array::new(matrix, "influence")?;
    let &[_, n_seeds] = array.shape() else {
        let what = format!("influence: expected [rows, seeds], got shape {:?}", array.shape());
        return Err(PyValueError::new_err(what));
    };
    if array.dtype != Dtype::F32 {
        return Err(PyValueError::new_err(format!("influence: expected float32, got {}", array.dtype.name())));
    }
    let valid = valid.map(|valid| Array::new(valid, "valid")?.one_dimensional(&[Dtype::U8])).transpose()?;
    let valid = valid.as_ref().map(Array::bytes);
    let influence = Influence::array(array.typed(), n_seeds, valid).map_err(to_py)?;
    supervised(py, None, |supervisor| work(&influence, supervisor))
}

fn made_by(py: Python<'_>, make: &Py<PyAny>, index: usize) -> PyResult<Vec<f32>> {
    let values = make.call1(py, (index,))?.into_bound(py);
    let array = Array::new(&values, "relevance")?;
    match (array.shape(), array.dtype) {
        (&[_, _], Dtype::F32) => Ok(array.typed().to_vec()),
        (shape, dtype) => {
            let what = format!("relevance: expected float32 [rows, seeds], got {} of shape {shape:?}", dtype.name());
            Err(PyValueError::new_err(what))
        }
    }
}
