//! BIDS over a sweep or an array.

use gdig_core::methods::bids::{bids as core, Options};
use gdig_core::sweep::Influence;
use gdig_core::Dtype;
use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::array::Array;
use crate::errors::to_py;
use crate::store::Store;
use crate::supervised::supervised;

type Picked<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f64>>, usize);

/// Returns (rows, the seed that each was picked for, its gain there, the number of seeds without a say). `budget` counts
/// rows.
#[pyfunction]
#[pyo3(signature = (influence, budget, valid=None, n_threads=0))]
pub fn bids<'py>(
    py: Python<'py>,
    influence: &Bound<'py, PyAny>,
    budget: usize,
    valid: Option<&Bound<'py, PyAny>>,
    n_threads: usize,
) -> PyResult<Picked<'py>> {
    let options = Options { n_threads, ..Options::new(budget) };
    let picked = if let Ok(store) = influence.cast::<Store>() {
        let store = store.get();
        if valid.is_some() {
            return Err(PyValueError::new_err("valid: expected none with a store, because the store has its own"));
        }
        supervised(py, None, |supervisor| core(&Influence::sweep(&store.store)?, &options, supervisor))?
    } else {
        let array = Array::new(influence, "influence")?;
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
        supervised(py, None, |supervisor| core(&influence, &options, supervisor))?
    };
    let seeds = PyArray1::from_vec(py, picked.seeds);
    Ok((PyArray1::from_vec(py, picked.rows), seeds, PyArray1::from_vec(py, picked.gains), picked.flat))
}
