//! How much a selection may take, as Python says it: a tuple ("rows" or "tokens", a number).

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

pub struct Limit(pub gdig_core::Limit);

impl<'py> FromPyObject<'_, 'py> for Limit {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Limit> {
        let (unit, amount): (String, u64) = object.extract()?;
        gdig_core::Limit::new(&unit, amount)
            .map(Limit)
            .ok_or_else(|| PyValueError::new_err(format!("limit: expected 'rows' or 'tokens', got {unit:?}")))
    }
}
