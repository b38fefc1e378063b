//! The places of rows: an array, or a shard that is mapped once for all its readers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use super::buffer::{Buffer, Pool};
use super::pages;
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
    Window(Window),
}

/// Some rows of a shard: in memory of their own with the place of their bytes there, or in the mapped file.
struct Window {
    shard: Arc<Shard>,
    span: Range<usize>,
    read: Option<(Buffer, Range<usize>)>,
}

impl Window {
    fn rows(&self) -> Rows<'_> {
        let mapped = self.shard.rows().slice(self.span.start, self.span.end);
        let Some((buffer, place)) = &self.read else { return mapped };
        let bytes = &buffer.bytes()[place.clone()];
        Rows::new(mapped.dtype(), mapped.dim(), bytes, mapped.scales()).expect("as many rows, aligned as in the file")
    }
}

impl<'a> Place<'a> {
    pub fn array(rows: Rows<'a>) -> Place<'a> {
        Place { first: 0, rows: Held::Array(rows) }
    }

    /// Rows `first..stop` of a place that holds all of its shard, read from the disk now, past the page cache. Where
    /// that is refused, and for rows that are in the page cache, a place in the mapping, whose pages are asked for.
    pub fn window(self, first: usize, stop: usize, pool: &Arc<Pool>) -> Place<'a> {
        let Held::Shard(shard) = self.rows else { return self };
        let span = first - self.first..shard.len().min(stop - self.first);
        let mapped = shard.rows().slice(span.start, span.end);
        let read = || {
            let mut buffer = Buffer::new(pool);
            let place = shard.read_directly(span.clone(), buffer.blocks())?;
            Some((buffer, place))
        };
        let is_direct = shard.has_direct_reads() && !pages::are_resident(mapped.bytes());
        let read = if is_direct { read() } else { None };
        if read.is_none() {
            pages::fetch(mapped.bytes());
        }
        pages::fetch(bytemuck::cast_slice(mapped.scales()));
        Place { first, rows: Held::Window(Window { shard, span, read }) }
    }

    #[cfg(test)]
    pub fn is_read_directly(&self) -> bool {
        matches!(&self.rows, Held::Window(Window { read: Some(_), .. }))
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
            Held::Window(Window { shard, span, .. }) => {
                let span = span.start + first - self.first..span.end.min(span.start + stop - self.first);
                Ok(shard.valid()?.map(|valid| &valid[span]))
            }
        }
    }

    fn all(&self) -> Rows<'_> {
        match &self.rows {
            Held::Array(rows) => *rows,
            Held::Shard(shard) => shard.rows(),
            Held::Window(window) => window.rows(),
        }
    }
}
