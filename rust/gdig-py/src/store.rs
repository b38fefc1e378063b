//! `gdig._native.Store` and single tensor files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gdig_core::store::{self, Appender, TensorData, TensorFile};
use gdig_core::{Dtype, Error};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::array::{arrays, numpy_name, to_numpy, Array};
use crate::errors::to_py;
use crate::supervised::{detached, supervised};

/// Name to (NumPy dtype, shape, offset of the first byte in the file).
type Layout = BTreeMap<String, (&'static str, Vec<usize>, usize)>;
/// (missing, damaged or foreign; what is wrong)
pub type Damage = (&'static str, String);

pub fn damage_to_py(damage: store::Damage) -> Damage {
    (damage.state.name(), damage.what)
}

/// A directory of shards.
#[pyclass(frozen, module = "gdig._native")]
pub struct Store {
    pub store: store::Store,
    appender: Mutex<Option<Appender>>,
}

impl Store {
    fn new(store: store::Store) -> Store {
        Store { store, appender: Mutex::new(None) }
    }

    fn appender(&self) -> MutexGuard<'_, Option<Appender>> {
        // An appender is valid after a panic: it only ever holds whole rows that it has counted.
        self.appender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sketch_dtype(name: &str) -> PyResult<Dtype> {
    Dtype::from_name(name).filter(|dtype| dtype.is_sketch()).ok_or_else(|| {
        PyValueError::new_err(format!("dtype: expected float32, float16, bfloat16 or int8, got {name:?}"))
    })
}

#[pymethods]
impl Store {
    #[staticmethod]
    fn create(
        py: Python<'_>,
        path: PathBuf,
        dim: usize,
        dtype: &str,
        rows_per_shard: usize,
        overwrite: bool,
    ) -> PyResult<Store> {
        let dtype = sketch_dtype(dtype)?;
        detached(py, || store::Store::create(&path, dim, dtype, rows_per_shard, overwrite)).map(Store::new)
    }

    #[staticmethod]
    fn describe(
        py: Python<'_>,
        path: PathBuf,
        dim: usize,
        dtype: &str,
        rows_per_shard: usize,
        made_from: &str,
    ) -> PyResult<Store> {
        let dtype = sketch_dtype(dtype)?;
        detached(py, || store::Store::describe(&path, dim, dtype, rows_per_shard, made_from)).map(Store::new)
    }

    #[staticmethod]
    fn expected(path: PathBuf, dim: usize, dtype: &str, rows_per_shard: usize, made_from: &str) -> PyResult<Store> {
        let dtype = sketch_dtype(dtype)?;
        store::Store::new(&path, dim, dtype, rows_per_shard, made_from).map(Store::new).map_err(to_py)
    }

    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Store> {
        detached(py, || store::Store::open(&path)).map(Store::new)
    }

    /// The same rows, without those whose byte in `mask` is 0.
    fn masked(&self, mask: &Bound<'_, PyAny>) -> PyResult<Store> {
        let mask = Array::new(mask, "mask")?.one_dimensional(&[Dtype::U8])?;
        Ok(Store::new(self.store.masked(mask.bytes().to_vec())))
    }

    /// What a shard was made from that ends before the row `stop`.
    fn origin_of(&self, stop: usize) -> &str {
        self.store.origin_of(stop)
    }

    #[getter]
    fn dim(&self) -> usize {
        self.store.dim()
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.store.dtype().name()
    }

    #[getter]
    fn rows_per_shard(&self) -> usize {
        self.store.rows_per_shard()
    }

    #[getter]
    fn made_from(&self) -> &str {
        self.store.made_from()
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        detached(py, || Ok(self.store.len()? + self.appender().as_ref().map_or(0, Appender::pending)))
    }

    fn shard_indices(&self, py: Python<'_>) -> PyResult<Vec<usize>> {
        detached(py, || self.store.shard_indices())
    }

    fn missing(&self, py: Python<'_>, n_rows: usize) -> PyResult<Vec<usize>> {
        detached(py, || self.store.missing(n_rows))
    }

    /// (shard, (state, what is wrong)) of the shards on disk, by shard.
    fn damage(&self, py: Python<'_>, n_rows: usize) -> PyResult<Vec<(usize, Damage)>> {
        let damage = supervised(py, None, |supervisor| self.store.damage(n_rows, supervisor))?;
        Ok(damage.into_iter().map(|(index, damage)| (index, damage_to_py(damage))).collect())
    }

    fn append(&self, py: Python<'_>, rows: &Bound<'_, PyAny>) -> PyResult<()> {
        let array = Array::new(rows, "rows")?;
        let rows = array.rows()?;
        detached(py, || {
            let mut appender = self.appender();
            if appender.is_none() {
                *appender = Some(Appender::new(&self.store)?);
            }
            appender.as_mut().expect("made just above").append(rows)
        })
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.appender().as_mut().map_or(Ok(()), Appender::flush))
    }

    fn write_shard(
        &self,
        py: Python<'_>,
        index: usize,
        sketch: &Bound<'_, PyAny>,
        tensors: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        let (sketch, arrays) = (Array::new(sketch, "sketch")?, arrays(tensors)?);
        let (rows, tensors) = (sketch.rows()?, arrays.values().map(Array::tensor).collect::<Vec<_>>());
        detached(py, || {
            let appender = self.appender();
            if appender.as_ref().is_some_and(|a| a.pending() > 0) {
                let what = "rows were appended and not flushed: flush before write_shard";
                return Err(Error::Store { path: self.store.path().into(), what: what.into() });
            }
            self.store.write_shard(index, rows, &tensors)
        })?;
        // What is appended next goes on after the shards as they are now.
        *self.appender() = None;
        Ok(())
    }

    fn extend_shard(
        &self,
        py: Python<'_>,
        index: usize,
        before: usize,
        sketch: &Bound<'_, PyAny>,
        tensors: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        let (sketch, arrays) = (Array::new(sketch, "sketch")?, arrays(tensors)?);
        let (rows, tensors) = (sketch.rows()?, arrays.values().map(Array::tensor).collect::<Vec<_>>());
        detached(py, || self.store.extend_shard(index, before, rows, &tensors))
    }

    fn shard_len(&self, py: Python<'_>, index: usize) -> PyResult<usize> {
        detached(py, || Ok(self.store.shard_header(index)?.len()))
    }

    fn layout(&self, py: Python<'_>, index: usize) -> PyResult<Layout> {
        let shard = detached(py, || self.store.shard(index))?;
        let tensors = shard.file.header().tensors.iter();
        Ok(tensors.map(|(name, t)| (name.clone(), (numpy_name(t.dtype), t.shape.clone(), t.start))).collect())
    }

    fn rows_float32<'py>(&self, py: Python<'py>, index: usize) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (rows, values) = detached(py, || {
            let shard = self.store.shard(index)?;
            let mut values = vec![0f32; shard.len() * self.store.dim()];
            shard.rows().decode(&mut values);
            Ok((shard.len(), values))
        })?;
        PyArray1::from_vec(py, values).reshape([rows, self.store.dim()])
    }

    /// (shards, rows, bytes, missing shards)
    fn verify(&self, py: Python<'_>) -> PyResult<(usize, usize, u64, Vec<usize>)> {
        let report = supervised(py, None, |supervisor| self.store.verify(supervisor))?;
        Ok((report.shards, report.rows, report.bytes, report.missing))
    }
}

#[pyfunction]
pub fn write_tensors(
    py: Python<'_>,
    path: PathBuf,
    tensors: &Bound<'_, PyDict>,
    metadata: BTreeMap<String, String>,
) -> PyResult<u64> {
    let arrays = arrays(tensors)?;
    let tensors: Vec<TensorData> = arrays.values().map(Array::tensor).collect();
    detached(py, || store::write(&path, &tensors, &metadata))
}

/// Checked, then copied out: a dictionary of arrays, and the metadata. With `made_from`, a file that was made from
/// something else is refused.
#[pyfunction]
#[pyo3(signature = (path, made_from=None))]
pub fn read_tensors<'py>(
    py: Python<'py>,
    path: PathBuf,
    made_from: Option<&str>,
) -> PyResult<(Bound<'py, PyDict>, BTreeMap<String, String>)> {
    let file = supervised(py, None, |supervisor| {
        let file = TensorFile::open_sound(&path, &|| supervisor.check())?;
        made_from.map_or(Ok(()), |expected| file.expect(expected))?;
        Ok(file)
    })?;
    let tensors = PyDict::new(py);
    for (name, info) in &file.header().tensors {
        let bytes = file.bytes(name).map_err(to_py)?;
        tensors.set_item(name, to_numpy(py, info.dtype, &info.shape, bytes)?)?;
    }
    Ok((tensors, file.user_metadata()))
}

/// For each (file, what it was made from, if that is to be compared): nothing, or (state, what is wrong).
#[pyfunction]
pub fn damage_of(py: Python<'_>, files: Vec<(PathBuf, Option<String>)>) -> PyResult<Vec<Option<Damage>>> {
    let damage = supervised(py, None, |supervisor| store::damage_of(&files, supervisor))?;
    Ok(damage.into_iter().map(|damage| damage.map(damage_to_py)).collect())
}

/// The length of a sound file, in bytes.
#[pyfunction]
pub fn verify_file(py: Python<'_>, path: PathBuf) -> PyResult<u64> {
    supervised(py, None, |supervisor| {
        let file = TensorFile::open(&path)?;
        file.verify(&|| supervisor.check())?;
        Ok(file.len())
    })
}

/// XXH3-64 over the content of a file of any kind, as 16 hexadecimal digits.
#[pyfunction]
pub fn content_checksum(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    supervised(py, None, |supervisor| store::content_checksum(&path, &|| supervisor.check()))
}
