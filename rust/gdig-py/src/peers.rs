//! The other processes of a fit of k-means.

use std::sync::Mutex;

use gdig_core::kmeans::Peers;
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

/// A Python object with `rank`, `world` and the methods of `Peers`. Bytes are uint8 arrays.
pub struct PyPeers {
    object: Py<PyAny>,
    pub rank: usize,
    world: usize,
    raised: Mutex<Option<PyErr>>,
}

impl PyPeers {
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<PyPeers> {
        let (rank, world) = (object.getattr("rank")?.extract()?, object.getattr("world")?.extract()?);
        Ok(PyPeers { object: object.clone().unbind(), rank, world, raised: Mutex::default() })
    }

    /// Call into Python from a thread of the core. An exception ends the work, and is raised again by `result`.
    fn call<T>(&self, work: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> gdig_core::Result<T> {
        Python::attach(|py| work(self.object.bind(py))).map_err(|error| {
            *self.raised.lock().expect("no thread panics with the lock") = Some(error);
            gdig_core::Error::Interrupted
        })
    }

    pub fn result<T>(self, result: PyResult<T>) -> PyResult<T> {
        match self.raised.into_inner().expect("no thread panics with the lock") {
            Some(error) => Err(error),
            None => result,
        }
    }
}

impl Peers for PyPeers {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn give(&self, centroids: &[f32]) -> gdig_core::Result<()> {
        self.call(|object| object.call_method1("give", (PyArray1::from_slice(object.py(), centroids),)).map(drop))
    }

    fn take(&self) -> gdig_core::Result<Option<Vec<f32>>> {
        self.call(|object| {
            let centroids: Option<PyReadonlyArray1<f32>> = object.call_method0("take")?.extract()?;
            centroids.map(|array| Ok(array.as_slice()?.to_vec())).transpose()
        })
    }

    fn send(&self, bytes: &[u8]) -> gdig_core::Result<()> {
        self.call(|object| object.call_method1("send", (PyArray1::from_slice(object.py(), bytes),)).map(drop))
    }

    fn receive(&self, from: usize, n_bytes: usize) -> gdig_core::Result<Vec<u8>> {
        self.call(|object| {
            let bytes: PyReadonlyArray1<u8> = object.call_method1("receive", (from, n_bytes))?.extract()?;
            Ok(bytes.as_slice()?.to_vec())
        })
    }
}
