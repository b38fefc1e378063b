//! The rows of a computation: those of an array, or of the shards of a store.

use super::open_shards::{OpenShards, Place};
use crate::convert::Rows;
use crate::interrupt::Supervisor;
use crate::simd::Kernel;
use crate::store::Store;
use crate::{Dtype, Result};

/// Rows [len, dim] as they are stored. A reader converts them.
pub enum Source<'a> {
    Array(Rows<'a>),
    Store { store: &'a Store, len: usize, open: OpenShards },
}

impl<'a> Source<'a> {
    /// All rows of a store. No shard may be missing.
    pub fn store(store: &'a Store) -> Result<Source<'a>> {
        Ok(Source::Store { store, len: store.check_complete()?, open: OpenShards::default() })
    }

    pub fn len(&self) -> usize {
        match self {
            Source::Array(rows) => rows.len(),
            Source::Store { len, .. } => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn dim(&self) -> usize {
        match self {
            Source::Array(rows) => rows.dim(),
            Source::Store { store, .. } => store.dim(),
        }
    }

    pub fn dtype(&self) -> Dtype {
        match self {
            Source::Array(rows) => rows.dtype(),
            Source::Store { store, .. } => store.dtype(),
        }
    }

    /// The place of a row.
    pub fn place(&self, row: usize) -> Result<Place<'_>> {
        match self {
            Source::Array(rows) => Ok(Place::array(*rows)),
            Source::Store { store, open, .. } => open.place(store, row),
        }
    }

    /// Call `visit` for each valid row, in order.
    pub fn each_valid(&self, supervisor: &Supervisor, mut visit: impl FnMut(usize)) -> Result<()> {
        /// Rows between two questions whether to stop.
        const STEP: usize = 1 << 16;
        let mut start = 0;
        while start < self.len() {
            let place = self.place(start)?;
            let stop = start + place.rows(start, start + STEP).len();
            supervisor.check()?;
            match place.valid(start, stop)? {
                None => (start..stop).for_each(&mut visit),
                Some(valid) => (start..stop).zip(valid).filter(|(_, &v)| v != 0).for_each(|(row, _)| visit(row)),
            }
            start = stop;
        }
        Ok(())
    }
}

/// The rows that a computation reads, in order: all rows of a source, or a list of them.
#[derive(Clone, Copy)]
pub struct RowSet<'a> {
    pub source: &'a Source<'a>,
    /// The numbers of valid rows, ascending. `None` means all rows; the reader skips the invalid ones.
    pub list: Option<&'a [u64]>,
    /// Scale each row to unit length when it is read. A row of zeros stays a row of zeros.
    pub unit_normalize: bool,
}

impl RowSet<'_> {
    /// The number of positions. Invalid rows count.
    pub fn len(&self) -> usize {
        self.list.map_or(self.source.len(), <[u64]>::len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the rows that a computation gets: the stored type, unless the reader changes the rows.
    pub fn dtype(&self) -> Dtype {
        match self.source.dtype() {
            Dtype::F64 => Dtype::F32,
            _ if self.unit_normalize => Dtype::F32,
            stored => stored,
        }
    }

    /// The kernel asked for, or the one for these rows.
    pub fn kernel(&self, asked: Option<Kernel>) -> Kernel {
        asked.unwrap_or_else(|| Kernel::detect(self.source.dtype(), self.dtype(), self.source.dim()))
    }

    pub fn row(&self, position: usize) -> usize {
        self.list.map_or(position, |list| list[position] as usize)
    }
}
