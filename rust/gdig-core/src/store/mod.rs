//! A store is a directory: `store.json`, and shards `00000000.safetensors`, `00000001.safetensors`, ... Shard
//! `i / rows_per_shard` holds row `i`. Every shard but the last is full.

mod append;
mod atomic;
mod damage;
pub mod direct;
pub mod file;
pub mod header;
mod shard;
mod sound;
mod strict_json;
#[cfg(test)]
mod tests;
mod verify;

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{json, Map, Value};
use xxhash_rust::xxh3::xxh3_64;

pub use append::Appender;
pub use atomic::{remove_leftovers, sync_directory, write_atomic};
pub use damage::{damage_of, Damage, State};
pub use file::{content_checksum, write, write_one_of_many, TensorData, TensorFile, MADE_FROM};
pub use shard::Shard;
pub use verify::Report;

pub(crate) use file::shortened;

use file::open_file;

use crate::{Dtype, Error, Result};

const STORE_JSON: &str = "store.json";
const FORMAT: u64 = 2;
const CHECKSUM: &str = "xxh3";
/// The most bytes of `store.json`, which holds six short fields.
const MAX_STORE_JSON: u64 = 65_536;
/// The most shards of a store. So a file whose name has a large number makes nobody count up to it.
pub const MAX_SHARDS: usize = 1_000_000;
pub const SKETCH: &str = "sketch";
pub const SCALE: &str = "scale";
pub const VALID: &str = "valid";

/// The name of a shard's file.
pub fn shard_name(index: usize) -> String {
    format!("{index:08}.safetensors")
}

/// The number in the name of a shard's file; `None` for another name, and for a number that no store has.
pub fn shard_index(name: &str) -> Option<usize> {
    let index = name.strip_suffix(".safetensors")?.parse().ok()?;
    (index < MAX_SHARDS && name == shard_name(index)).then_some(index)
}

/// The numbers of the shards in a directory, ascending. Other files do not count. A directory that is not there has
/// none.
pub fn shard_indices(directory: &Path) -> Result<Vec<usize>> {
    let mut indices = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(indices),
        entries => entries.map_err(Error::io(directory, "list"))?,
    };
    for entry in entries {
        let name = entry.map_err(Error::io(directory, "list"))?.file_name();
        indices.extend(name.to_str().and_then(shard_index));
    }
    indices.sort_unstable();
    Ok(indices)
}

/// The place and the layout of a store. Each call looks for the shards on disk, because other processes may write
/// shards.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
    dim: usize,
    dtype: Dtype,
    rows_per_shard: usize,
    /// What the rows were made from. Empty for a store of a user. Of a store that has grown, the origin of the first
    /// rows, and of each step that added rows its first row and its origin: "a1 500:b2 720:c3".
    made_from: String,
    /// One byte for each row of the store, 0 for a row to skip; in place of what the shards say.
    mask: Option<Arc<[u8]>>,
}

impl Store {
    /// Make an empty store. With `overwrite`, first delete the shards of a store at this place.
    pub fn create(path: &Path, dim: usize, dtype: Dtype, rows_per_shard: usize, overwrite: bool) -> Result<Store> {
        let store = Store::new(path, dim, dtype, rows_per_shard, "")?;
        fs::create_dir_all(path).map_err(Error::io(path, "create"))?;
        let json = path.join(STORE_JSON);
        let shards = shard_indices(path)?;
        if !overwrite && (json.exists() || !shards.is_empty()) {
            return Err(Error::store(path, "expected no store, got one; open it, or create it with overwrite"));
        }
        // The description goes first, so that a kill in between leaves no old shards under a new description.
        if json.exists() {
            fs::remove_file(&json).map_err(Error::io(&json, "delete"))?;
        }
        for index in shards {
            let shard = path.join(shard_name(index));
            fs::remove_file(&shard).map_err(Error::io(&shard, "delete"))?;
        }
        store.write_json()?;
        Ok(store)
    }

    /// Write the description of a store whose rows are made from `made_from`, and leave the shards there as they are.
    /// A shard that is of something else then counts as absent.
    pub fn describe(path: &Path, dim: usize, dtype: Dtype, rows_per_shard: usize, made_from: &str) -> Result<Store> {
        let store = Store::new(path, dim, dtype, rows_per_shard, made_from)?;
        fs::create_dir_all(path).map_err(Error::io(path, "create"))?;
        store.write_json()?;
        Ok(store)
    }

    /// The store that a directory should hold. Its description is neither read nor written.
    pub fn new(path: &Path, dim: usize, dtype: Dtype, rows_per_shard: usize, made_from: &str) -> Result<Store> {
        if dim == 0 || rows_per_shard == 0 || overflows(dim, rows_per_shard) || !dtype.is_sketch() {
            let what = "expected dim >= 1, rows_per_shard >= 1, dtype float32, float16, bfloat16 or int8";
            let got = format!("dim {dim}, rows_per_shard {rows_per_shard}, dtype {}", dtype.name());
            return Err(Error::store(path, format!("{what}; got {got}")));
        }
        let (path, made_from) = (path.to_path_buf(), made_from.to_owned());
        Ok(Store { path, dim, dtype, rows_per_shard, made_from, mask: None })
    }

    fn write_json(&self) -> Result<()> {
        let fields = json!({
            "dim": self.dim,
            "dtype": self.dtype.name(),
            "format": FORMAT,
            "made_from": self.made_from,
            "rows_per_shard": self.rows_per_shard,
        });
        let Value::Object(mut fields) = fields else { unreachable!("json! was given an object") };
        fields.insert(CHECKSUM.into(), checksum(&fields).into());
        write_atomic(&self.path.join(STORE_JSON), &[format!("{}\n", Value::Object(fields)).as_bytes()])
    }

    pub fn open(path: &Path) -> Result<Store> {
        let json = path.join(STORE_JSON);
        let mut text = Vec::new();
        open_file(&json)?.take(MAX_STORE_JSON + 1).read_to_end(&mut text).map_err(Error::io(&json, "read"))?;
        if text.len() as u64 > MAX_STORE_JSON {
            return Err(Error::store(&json, format!("expected at most {MAX_STORE_JSON} bytes, got more")));
        }
        let fields: Value = serde_json::from_slice(&text).map_err(|e| Error::store(&json, format!("not JSON: {e}")))?;
        let number = |key: &str| {
            let value = fields.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
            let bad = || Error::store(&json, format!("{key}: expected a whole number of at least 1"));
            value.filter(|&n| n > 0).ok_or_else(bad)
        };
        if number("format")? as u64 != FORMAT {
            return Err(Error::store(&json, format!("format: expected {FORMAT}, got {}", fields["format"])));
        }
        let (dim, rows_per_shard) = (number("dim")?, number("rows_per_shard")?);
        let string = |key: &str| {
            let bad = || Error::store(&json, format!("{key}: expected a string, got {}", fields[key]));
            fields.get(key).and_then(Value::as_str).ok_or_else(bad)
        };
        let (dtype, made_from) = (string("dtype")?, string("made_from")?);
        let dtype = Dtype::from_name(dtype).filter(|dtype| dtype.is_sketch()).ok_or_else(|| {
            Error::store(&json, format!("dtype: expected float32, float16, bfloat16 or int8, got {dtype:?}"))
        })?;
        if overflows(dim, rows_per_shard) {
            return Err(Error::store(&json, "dim times rows_per_shard overflows"));
        }
        let recorded = string(CHECKSUM)?;
        let computed = checksum(fields.as_object().expect("it has keys"));
        if recorded != computed {
            return Err(Error::Checksum { path: json, recorded: recorded.chars().take(16).collect(), computed });
        }
        let (path, made_from) = (path.to_path_buf(), made_from.to_owned());
        Ok(Store { path, dim, dtype, rows_per_shard, made_from, mask: None })
    }

    /// A byte for each row of a masked store, 0 for a row to skip.
    pub fn mask(&self) -> Option<&[u8]> {
        self.mask.as_deref()
    }

    /// The same rows, of which those with a byte of 0 are skipped, whatever the shards say. `mask` has a byte for each
    /// row of the store.
    pub fn masked(&self, mask: Vec<u8>) -> Store {
        Store { mask: Some(mask.into()), ..self.clone() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub fn rows_per_shard(&self) -> usize {
        self.rows_per_shard
    }

    /// What the rows were made from; empty for a store of a user.
    pub fn made_from(&self) -> &str {
        &self.made_from
    }

    /// What a shard was made from whose last row is `stop - 1`: the origin of the step that added this row.
    pub fn origin_of(&self, stop: usize) -> &str {
        let (first, steps) = self.made_from.split_once(' ').unwrap_or((&self.made_from, ""));
        let steps = steps.split(' ').filter_map(step);
        steps.take_while(|&(start, _)| start < stop).last().map_or(first, |(_, origin)| origin)
    }

    /// Whether a step of growth begins at a row.
    fn grows_at(&self, row: usize) -> bool {
        self.made_from.split(' ').skip(1).filter_map(step).any(|(start, _)| start == row)
    }

    pub fn shard_path(&self, index: usize) -> PathBuf {
        self.path.join(shard_name(index))
    }

    pub fn shard_indices(&self) -> Result<Vec<usize>> {
        shard_indices(&self.path)
    }

    /// Rows up to the end of the last shard. The rows of missing shards before it count.
    pub fn len(&self) -> Result<usize> {
        match self.shard_indices()?.last() {
            None => Ok(0),
            Some(&last) => Ok(last * self.rows_per_shard + self.shard_header(last)?.len()),
        }
    }

    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.shard_indices()?.is_empty())
    }

    /// The shards that a store of `n_rows` rows still needs: they are absent, or have another number of rows.
    pub fn missing(&self, n_rows: usize) -> Result<Vec<usize>> {
        let present = self.shard_indices()?;
        let mut missing = Vec::new();
        for index in 0..n_rows.div_ceil(self.rows_per_shard) {
            let rows = (n_rows - index * self.rows_per_shard).min(self.rows_per_shard);
            // A shard with a bad header counts as absent: the next write replaces it.
            let complete =
                present.binary_search(&index).is_ok() && self.shard_header(index).is_ok_and(|s| s.len() == rows);
            if !complete {
                missing.push(index);
            }
        }
        Ok(missing)
    }

    /// Check that no shard is missing and every shard but the last is full. Returns the number of rows.
    pub fn check_complete(&self) -> Result<usize> {
        let present = self.shard_indices()?;
        if let Some(gap) = present.iter().enumerate().find(|(i, &index)| *i != index) {
            return Err(Error::store(&self.shard_path(gap.0), "missing: expected every shard up to the last one"));
        }
        for &index in present.iter().rev().skip(1) {
            let n = self.shard_header(index)?.len();
            if n != self.rows_per_shard {
                let what = format!("{n} rows: expected {} in a shard that is not the last", self.rows_per_shard);
                return Err(Error::store(&self.shard_path(index), what));
            }
        }
        self.len()
    }
}

/// The first row of a step of growth, and its origin: "500:b2".
fn step(text: &str) -> Option<(usize, &str)> {
    let (start, origin) = text.split_once(':')?;
    Some((start.parse().ok()?, origin))
}

/// Whether the bytes of a shard, or the number of a store's last row, do not fit.
fn overflows(dim: usize, rows_per_shard: usize) -> bool {
    let bytes = dim.checked_mul(rows_per_shard).and_then(|n| n.checked_mul(8));
    bytes.is_none() || rows_per_shard.checked_mul(MAX_SHARDS + 1).is_none()
}

/// A hash of the fields of a `store.json` besides the checksum itself.
fn checksum(fields: &Map<String, Value>) -> String {
    let mut fields = fields.clone();
    fields.remove(CHECKSUM);
    format!("{:016x}", xxh3_64(Value::Object(fields).to_string().as_bytes()))
}
