//! The one place where the core's errors become Python exceptions.

use gdig_core::Error;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt};
use pyo3::prelude::*;

create_exception!(gdig._native, GdigError, PyException, "Base class of the errors that gdig raises on purpose.");
create_exception!(gdig._native, StoreError, GdigError, "A store or a tensor file cannot be written, read or trusted.");

pub fn to_py(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Io { .. }
        | Error::Header { .. }
        | Error::Checksum { .. }
        | Error::Foreign { .. }
        | Error::Store { .. } => StoreError::new_err(message),
        Error::Input(_) => GdigError::new_err(message),
        Error::Interrupted => PyKeyboardInterrupt::new_err(()),
    }
}
