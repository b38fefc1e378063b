//! Calls into the core, without the GIL. Ctrl-C and the exceptions of a callback end the work.

use gdig_core::interrupt::{supervise, Progress, Supervisor};
use gdig_core::Result;
use pyo3::prelude::*;

use crate::errors::to_py;

/// For work that takes no noticeable time.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(to_py)
}

/// For long work. This thread handles signals, which Python allows on its main thread alone. It calls `callback` with the
/// numbers of each report.
pub fn supervised<T: Send>(
    py: Python<'_>,
    callback: Option<Bound<'_, PyAny>>,
    work: impl FnOnce(&Supervisor) -> Result<T> + Send,
) -> PyResult<T> {
    let callback = callback.map(Bound::unbind);
    let mut raised = None;
    let mut watch = |progress: Option<Progress>| {
        let outcome = Python::attach(|py| {
            py.check_signals()?;
            match (&callback, progress) {
                (Some(callback), Some(Progress::Iteration { iteration, inertia, shift })) => {
                    callback.call1(py, (iteration, inertia, shift)).map(drop)
                }
                (Some(callback), Some(Progress::Rows { done, total })) => callback.call1(py, (done, total)).map(drop),
                _ => Ok(()),
            }
        });
        raised = outcome.err();
        raised.is_none()
    };
    let result = py.detach(|| supervise(&mut watch, work));
    match raised {
        Some(error) => Err(error),
        None => result.map_err(to_py),
    }
}
