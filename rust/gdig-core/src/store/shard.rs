//! One shard of a store: opened and checked, or written whole.

use std::collections::BTreeMap;

use super::file::{write, TensorData, TensorFile, MADE_FROM};
use super::{Store, MAX_SHARDS, SCALE, SKETCH, VALID};
use crate::convert::{encode, Rows};
use crate::{Dtype, Error, Result};

impl Store {
    /// Open a shard, and check its data and that it belongs to this store.
    pub fn shard(&self, index: usize) -> Result<Shard> {
        self.check_shard(index, TensorFile::open_sound(&self.shard_path(index), &|| Ok(()))?)
    }

    /// Open a shard, and check its header alone: that it belongs to this store.
    pub fn shard_header(&self, index: usize) -> Result<Shard> {
        self.check_shard(index, TensorFile::open(&self.shard_path(index))?)
    }

    fn check_shard(&self, index: usize, file: TensorFile) -> Result<Shard> {
        file.expect(&self.made_from)?;
        let bad = |what: String| Err(Error::store(file.path(), what));
        let info = file.info(SKETCH)?;
        let [n, dim] = info.shape[..] else { return bad(format!("sketch: expected [n, dim], got {:?}", info.shape)) };
        if (dim, info.dtype) != (self.dim, self.dtype) {
            let (expected, got) = (self.dtype.name(), info.dtype.name());
            return bad(format!("sketch: expected [n, {}] of {expected}, got [{n}, {dim}] of {got}", self.dim));
        }
        if n == 0 || n > self.rows_per_shard {
            return bad(format!("{n} rows: expected 1 to {}", self.rows_per_shard));
        }
        if let Some((name, info)) = file.header().tensors.iter().find(|(_, info)| info.shape.first() != Some(&n)) {
            return bad(format!("tensor {name:?}: expected {n} rows, got shape {:?}", info.shape));
        }
        let first = self.first_row(index)?.to_string();
        if file.header().metadata.get("first_row") != Some(&first) {
            let got = file.header().metadata.get("first_row").map_or("none", String::as_str);
            let (expected, got) = (format!("first_row {first}"), format!("first_row {got}"));
            return Err(Error::Foreign { path: file.path().into(), expected, got });
        }
        // The check is here, so that reading rows cannot fail half-way.
        Shard::rows_of(&file, self)?;
        Ok(Shard { file, n, store: self.clone() })
    }

    /// The number of the first row of a shard.
    fn first_row(&self, index: usize) -> Result<usize> {
        if index >= MAX_SHARDS {
            let what = format!("shard {index}: expected at most {MAX_SHARDS} shards; give more rows to a shard");
            return Err(Error::store(&self.path, what));
        }
        Ok(index * self.rows_per_shard)
    }

    /// Write shard `index`, complete or not at all. `rows` become the tensor `sketch`. `tensors` are stored as given,
    /// and must have as many rows.
    pub fn write_shard(&self, index: usize, rows: Rows, tensors: &[TensorData]) -> Result<()> {
        let path = self.shard_path(index);
        let (n, bad) = (rows.len(), |what: String| Err(Error::store(&path, what)));
        if rows.dim() != self.dim {
            return bad(format!("sketch: expected {} columns, got {}", self.dim, rows.dim()));
        }
        if n == 0 || n > self.rows_per_shard {
            return bad(format!("{n} rows: expected 1 to {}", self.rows_per_shard));
        }
        for tensor in tensors {
            if tensor.name == SKETCH || tensor.name == SCALE {
                return bad(format!(
                    "tensor {:?}: expected another name, because the store makes this tensor",
                    tensor.name
                ));
            }
            if tensor.shape.first() != Some(&n) {
                return bad(format!("tensor {:?}: expected {n} rows, got shape {:?}", tensor.name, tensor.shape));
            }
        }
        let first = self.first_row(index)?;
        let (mut bytes, mut scales) = (Vec::with_capacity(n * self.dim * self.dtype.size()), Vec::new());
        encode(rows, self.dtype, first, &mut bytes, &mut scales).map_err(|what| Error::store(&path, what))?;
        self.write_encoded(index, &bytes, &scales, tensors)
    }

    pub(super) fn write_encoded(
        &self,
        index: usize,
        bytes: &[u8],
        scales: &[f32],
        tensors: &[TensorData],
    ) -> Result<()> {
        let n = bytes.len() / (self.dim * self.dtype.size());
        let mut all = tensors.to_vec();
        all.push(TensorData { name: SKETCH, dtype: self.dtype, shape: vec![n, self.dim], bytes });
        if self.dtype == Dtype::I8 {
            all.push(TensorData {
                name: SCALE,
                dtype: Dtype::F32,
                shape: vec![n],
                bytes: bytemuck::cast_slice(scales),
            });
        }
        let first_row = self.first_row(index)?.to_string();
        let mut metadata = BTreeMap::from([("first_row".to_owned(), first_row)]);
        if !self.made_from.is_empty() {
            metadata.insert(MADE_FROM.to_owned(), self.made_from.clone());
        }
        write(&self.shard_path(index), &all, &metadata).map(drop)
    }
}

/// An open shard.
pub struct Shard {
    pub file: TensorFile,
    n: usize,
    store: Store,
}

impl Shard {
    pub fn len(&self) -> usize {
        self.n
    }

    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    pub fn rows(&self) -> Rows<'_> {
        Shard::rows_of(&self.file, &self.store).expect("checked when the shard was opened")
    }

    fn rows_of<'a>(file: &'a TensorFile, store: &Store) -> Result<Rows<'a>> {
        let scales = if store.dtype == Dtype::I8 { file.typed::<f32>(SCALE, Dtype::F32)? } else { &[] };
        Rows::new(store.dtype, store.dim, file.bytes(SKETCH)?, scales)
            .map_err(|error| Error::store(file.path(), error.to_string()))
    }

    /// One byte for each row, 0 for a row to skip. `None` means that all rows are valid.
    pub fn valid(&self) -> Result<Option<&[u8]>> {
        match self.file.header().tensors.get(VALID) {
            None => Ok(None),
            Some(info) if info.shape.len() == 1 => self.file.typed::<u8>(VALID, Dtype::U8).map(Some),
            Some(info) => Err(Error::store(self.file.path(), format!("valid: expected [n], got {:?}", info.shape))),
        }
    }
}
