//! One shard of a store: opened and checked, or written whole.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

use super::direct::{Blocks, DirectFile};
use super::file::{shortened, write, TensorData, TensorFile, MADE_FROM};
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
        let row = self.first_row(index)?;
        let rows = file.header().tensors.get(SKETCH).and_then(|info| info.shape.first());
        file.expect(self.origin_of(row + rows.copied().unwrap_or(0).min(self.rows_per_shard)))?;
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
        let first = row.to_string();
        if file.header().metadata.get("first_row") != Some(&first) {
            let got = file.header().metadata.get("first_row").map_or("none", String::as_str);
            let (expected, got) = (format!("first_row {first}"), format!("first_row {}", shortened(got)));
            return Err(Error::Foreign { path: file.path().into(), expected, got });
        }
        // The check is here, so that reading rows cannot fail half-way.
        Shard::rows_of(&file, self)?;
        Ok(Shard { file, n, row, store: self.clone(), direct: OnceLock::new() })
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

    /// Add rows to a shard of `before` rows that is not full, complete or not at all. Its own rows stay as they are
    /// stored. `tensors` have the names, dtypes and columns of those in the shard.
    pub fn extend_shard(&self, index: usize, before: usize, rows: Rows, tensors: &[TensorData]) -> Result<()> {
        let shard = self.shard(index)?;
        let bad = |what: String| Err(Error::store(shard.file.path(), what));
        if shard.len() != before {
            return bad(format!("{} rows: expected {before}, to which rows are added", shard.len()));
        }
        let n = before + rows.len();
        if rows.dim() != self.dim || rows.is_empty() || n > self.rows_per_shard {
            let most = self.rows_per_shard - before;
            return bad(format!(
                "expected 1 to {most} more rows of {} columns, got {} of {}",
                self.dim,
                rows.len(),
                rows.dim()
            ));
        }
        let (mut bytes, mut scales) = (shard.rows().bytes().to_vec(), shard.rows().scales().to_vec());
        encode(rows, self.dtype, index * self.rows_per_shard + before, &mut bytes, &mut scales)
            .map_err(|what| Error::store(shard.file.path(), what))?;
        let own = shard.file.header().tensors.iter().filter(|(name, _)| !matches!(name.as_str(), SKETCH | SCALE));
        let mut longer = Vec::new();
        for (name, info) in own {
            let same = |t: &&TensorData| t.name == name && t.dtype == info.dtype && t.shape[1..] == info.shape[1..];
            let Some(more) = tensors.iter().find(same).filter(|t| t.shape.first() == Some(&rows.len())) else {
                let expected = format!("{} {:?} of {} rows", info.dtype.name(), &info.shape[1..], rows.len());
                return bad(format!("tensor {name:?}: expected {expected} to add"));
            };
            longer.push((name.as_str(), info, [shard.file.bytes(name)?, more.bytes].concat()));
        }
        if let Some(other) = tensors.iter().find(|t| longer.iter().all(|(name, ..)| *name != t.name)) {
            return bad(format!("tensor {:?}: the shard has none of this name", other.name));
        }
        let all: Vec<TensorData> = longer
            .iter()
            .map(|(name, info, bytes)| {
                let shape = std::iter::once(n).chain(info.shape[1..].iter().copied()).collect();
                TensorData { name, dtype: info.dtype, shape, bytes }
            })
            .collect();
        self.write_encoded(index, &bytes, &scales, &all)
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
        let first = self.first_row(index)?;
        let mut metadata = BTreeMap::from([("first_row".to_owned(), first.to_string())]);
        if !self.made_from.is_empty() {
            metadata.insert(MADE_FROM.to_owned(), self.origin_of(first + n).to_owned());
        }
        write(&self.shard_path(index), &all, &metadata).map(drop)
    }
}

/// An open shard.
pub struct Shard {
    pub file: TensorFile,
    n: usize,
    /// The number of its first row.
    row: usize,
    store: Store,
    direct: OnceLock<Option<DirectFile>>,
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

    fn direct(&self) -> Option<&DirectFile> {
        self.direct.get_or_init(|| self.file.direct()).as_ref()
    }

    /// Whether the system grants direct reads of the shard.
    pub fn has_direct_reads(&self) -> bool {
        self.direct().is_some()
    }

    /// Read rows `span` of the shard from the disk. The answer is the place of their bytes in `blocks`. `None` where
    /// the system refuses.
    pub fn read_directly(&self, span: Range<usize>, blocks: &mut Blocks) -> Option<Range<usize>> {
        let direct = self.direct()?;
        let (start, row) = (self.file.info(SKETCH).ok()?.start, self.store.dim * self.store.dtype.size());
        direct.read(start + span.start * row..start + span.end * row, blocks)
    }

    fn rows_of<'a>(file: &'a TensorFile, store: &Store) -> Result<Rows<'a>> {
        let scales = if store.dtype == Dtype::I8 { file.typed::<f32>(SCALE, Dtype::F32)? } else { &[] };
        Rows::new(store.dtype, store.dim, file.bytes(SKETCH)?, scales)
            .map_err(|error| Error::store(file.path(), error.to_string()))
    }

    /// One byte for each row, 0 for a row to skip. `None` means that all rows are valid.
    pub fn valid(&self) -> Result<Option<&[u8]>> {
        if let Some(mask) = &self.store.mask {
            let span = self.row..self.row + self.n;
            let short = || Error::input(format!("mask of {} rows: expected one for each row of the store", mask.len()));
            return mask.get(span).map(Some).ok_or_else(short);
        }
        match self.file.header().tensors.get(VALID) {
            None => Ok(None),
            Some(info) if info.shape.len() == 1 => self.file.typed::<u8>(VALID, Dtype::U8).map(Some),
            Some(info) => Err(Error::store(self.file.path(), format!("valid: expected [n], got {:?}", info.shape))),
        }
    }
}
