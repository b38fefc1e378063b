//! Where a computation gets its rows: from an array, or from the shards of a store.

use super::open_shards::{OpenShards, Place};
use crate::convert::Rows;
use crate::interrupt::Supervisor;
use crate::simd::Kernel;
use crate::store::Store;
use crate::{Dtype, Result};

/// Rows as they lie: [len, dim]. Nothing is converted before it is read.
pub enum Source<'a> {
    Array(Rows<'a>),
    Store { store: &'a Store, len: usize, open: OpenShards },
}

impl<'a> Source<'a> {
    /// All rows of a store, which must have no gaps.
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

    /// Call `visit` for each row that is not to be skipped, in order.
    pub fn each_valid(&self, supervisor: &Supervisor, mut visit: impl FnMut(usize)) -> Result<()> {
        /// Rows between two looks at whether to stop.
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

/// The rows that a computation goes over, in order: all of a source's, or a list of them.
#[derive(Clone, Copy)]
pub struct RowSet<'a> {
    pub source: &'a Source<'a>,
    /// Ascending numbers of valid rows; `None` means all rows, of which invalid ones are skipped.
    pub list: Option<&'a [u64]>,
    /// Scale each row to unit length as it is read (a row of zeros stays one).
    pub unit_normalize: bool,
}

impl RowSet<'_> {
    /// Positions: rows that are skipped as invalid count.
    pub fn len(&self) -> usize {
        self.list.map_or(self.source.len(), <[u64]>::len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type in which a computation gets the rows: as stored, unless they are changed as they are read.
    pub fn dtype(&self) -> Dtype {
        match self.source.dtype() {
            Dtype::F64 => Dtype::F32,
            _ if self.unit_normalize => Dtype::F32,
            stored => stored,
        }
    }

    /// The kernel asked for, or the one for these rows.
    pub fn kernel(&self, asked: Option<Kernel>) -> Kernel {
        asked.unwrap_or_else(|| Kernel::detect(self.source.dtype(), self.dtype()))
    }

    pub fn row(&self, position: usize) -> usize {
        self.list.map_or(position, |list| list[position] as usize)
    }
}
