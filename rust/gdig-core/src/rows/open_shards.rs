//! The places of rows: an array, or a shard that is mapped once for all its readers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use crate::convert::Rows;
use crate::store::{Shard, Store};
use crate::{Error, Result};

/// The shards that a thread reads now. All threads share the pages of a shard.
#[derive(Default)]
pub struct OpenShards(Mutex<BTreeMap<usize, Weak<Shard>>>);

impl OpenShards {
    /// The place of the store's row `row`.
    pub fn place(&self, store: &Store, row: usize) -> Result<Place<'static>> {
        let index = row / store.rows_per_shard();
        let mut open = self.0.lock().expect("no thread panics with the lock");
        let shard = match open.get(&index).and_then(Weak::upgrade) {
            Some(shard) => shard,
            None => {
                open.retain(|_, shard| shard.strong_count() > 0);
                let shard = Arc::new(store.shard(index)?);
                open.insert(index, Arc::downgrade(&shard));
                shard
            }
        };
        let first = index * store.rows_per_shard();
        if row - first >= shard.len() {
            return Err(Error::store(
                shard.file.path(),
                "became shorter while it was read; run again when nothing writes to it",
            ));
        }
        Ok(Place { first, rows: Held::Shard(shard) })
    }
}

/// Rows that lie in sequence.
pub struct Place<'a> {
    /// The number of the first row in the source.
    first: usize,
    rows: Held<'a>,
}

enum Held<'a> {
    Array(Rows<'a>),
    Shard(Arc<Shard>),
}

impl<'a> Place<'a> {
    pub fn array(rows: Rows<'a>) -> Place<'a> {
        Place { first: 0, rows: Held::Array(rows) }
    }

    pub fn holds(&self, row: usize) -> bool {
        row >= self.first && row - self.first < self.all().len()
    }

    /// The rows of the source from `first`, which lies here, up to `stop` or the end of this place.
    pub fn rows(&self, first: usize, stop: usize) -> Rows<'_> {
        let all = self.all();
        all.slice(first - self.first, all.len().min(stop - self.first))
    }

    /// One byte for each of these rows, 0 for a row to skip. `None` means that all rows are valid.
    pub fn valid(&self, first: usize, stop: usize) -> Result<Option<&[u8]>> {
        match &self.rows {
            Held::Array(_) => Ok(None),
            Held::Shard(shard) => {
                let span = first - self.first..shard.len().min(stop - self.first);
                Ok(shard.valid()?.map(|valid| &valid[span]))
            }
        }
    }

    fn all(&self) -> Rows<'_> {
        match &self.rows {
            Held::Array(rows) => *rows,
            Held::Shard(shard) => shard.rows(),
        }
    }
}
