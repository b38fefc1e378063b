//! NumPy arrays in and out, as the bytes that the core works on.

use std::collections::BTreeMap;

use gdig_core::convert::Rows;
use gdig_core::store::TensorData;
use gdig_core::Dtype;
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::to_py;

/// An array's memory, borrowed while the call lasts.
pub struct Array<'py> {
    array: Bound<'py, PyUntypedArray>,
    pub name: String,
    pub dtype: Dtype,
}

impl<'py> Array<'py> {
    pub fn new(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Array<'py>> {
        let array = object
            .cast::<PyUntypedArray>()
            .map_err(|_| PyTypeError::new_err(format!("{name}: expected a NumPy array, got {}", object.get_type())))?
            .clone();
        let descr = array.dtype();
        let dtype = match (descr.kind(), descr.itemsize()) {
            (b'f', 8) => Dtype::F64,
            (b'f', 4) => Dtype::F32,
            (b'f', 2) => Dtype::F16,
            (b'i', 8) => Dtype::I64,
            (b'i', 4) => Dtype::I32,
            (b'i', 1) => Dtype::I8,
            (b'u', 8) => Dtype::U64,
            (b'u', 4) => Dtype::U32,
            (b'u' | b'b', 1) => Dtype::U8,
            _ => {
                let expected = "float16/32/64, int8/32/64, uint8/32/64 or bool";
                return Err(PyTypeError::new_err(format!("{name}: expected dtype {expected}, got {descr}")));
            }
        };
        if descr.byteorder() == b'>' || !array.is_c_contiguous() {
            let what = "expected a C-contiguous array in native byte order (numpy.ascontiguousarray makes one)";
            return Err(PyValueError::new_err(format!("{name}: {what}")));
        }
        let array = Array { array, name: name.to_owned(), dtype };
        if !(array.bytes().as_ptr() as usize).is_multiple_of(dtype.size()) {
            return Err(PyValueError::new_err(format!(
                "{name}: expected memory aligned to the elements (numpy.require(x, requirements='A') makes it so)"
            )));
        }
        Ok(array)
    }

    pub fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    pub fn bytes(&self) -> &[u8] {
        let length = self.array.len() * self.dtype.size();
        if length == 0 {
            // This slice is aligned to every element type; an empty NumPy array need not be.
            return bytemuck::cast_slice::<u64, u8>(&[]);
        }
        // SAFETY: NumPy owns `length` initialised bytes at `data`. They lie in sequence, because the array is C-contiguous,
        // and live while `self.array` holds a reference. Arrays may be larger than memory, so they are not copied. A program
        // that writes to an array on another thread during the call breaks the rule of shared references. Every byte is a
        // valid value of its type, so such a program gets wrong numbers.
        unsafe { std::slice::from_raw_parts((*self.array.as_array_ptr()).data.cast::<u8>(), length) }
    }

    pub fn typed<T: bytemuck::Pod>(&self) -> &[T] {
        bytemuck::cast_slice(self.bytes())
    }

    fn wrong(&self, expected: &str) -> PyErr {
        let (name, dtype) = (&self.name, self.dtype.name());
        PyValueError::new_err(format!("{name}: expected {expected}, got {dtype} of shape {:?}", self.shape()))
    }

    /// As rows [n, dim] of floats.
    pub fn rows(&self) -> PyResult<Rows<'_>> {
        match (self.shape(), self.dtype) {
            (&[_, dim], Dtype::F16 | Dtype::F32 | Dtype::F64) if dim > 0 => {
                Rows::new(self.dtype, dim, self.bytes(), &[]).map_err(to_py)
            }
            _ => Err(self.wrong("rows [n, dim] of float16, float32 or float64")),
        }
    }

    pub fn one_dimensional(self, dtypes: &[Dtype]) -> PyResult<Array<'py>> {
        if self.shape().len() == 1 && dtypes.contains(&self.dtype) {
            return Ok(self);
        }
        let names: Vec<_> = dtypes.iter().map(|dtype| dtype.name()).collect();
        Err(self.wrong(&format!("one dimension of {}", names.join(" or "))))
    }

    pub fn tensor(&self) -> TensorData<'_> {
        TensorData { name: &self.name, dtype: self.dtype, shape: self.shape().to_vec(), bytes: self.bytes() }
    }
}

/// The arrays of a dictionary, by name.
pub fn arrays<'py>(tensors: &Bound<'py, PyDict>) -> PyResult<BTreeMap<String, Array<'py>>> {
    let mut arrays = BTreeMap::new();
    for (name, array) in tensors {
        let name: String = name.extract()?;
        let array = Array::new(&array, &name)?;
        arrays.insert(name, array);
    }
    Ok(arrays)
}

/// A new NumPy array with these bytes. bfloat16 comes as the uint16 of its bits: NumPy has no such type.
pub fn to_numpy<'py>(py: Python<'py>, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let made = py.import("numpy")?.call_method1("empty", (shape.to_vec(), numpy_name(dtype)))?;
    let array = made.cast::<PyUntypedArray>()?;
    assert_eq!(array.len() * dtype.size(), bytes.len(), "the shape takes the bytes");
    // SAFETY: numpy.empty has just made this array, C-contiguous and of that many bytes (asserted above); nobody else
    // holds it yet, and `bytes` lie elsewhere.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), (*array.as_array_ptr()).data.cast::<u8>(), bytes.len());
    }
    Ok(made)
}

/// The NumPy type that shows a dtype's bits.
pub fn numpy_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::BF16 => "uint16",
        other => other.name(),
    }
}
