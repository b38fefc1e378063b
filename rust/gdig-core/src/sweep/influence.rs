//! The influence of rows on seeds, from an array or a sweep, or another matrix in its place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::shard::SweepShard;
use crate::store::Store;
use crate::{Error, Result};

/// Influence [rows, seeds], and which rows may be picked.
#[derive(Clone, Copy)]
pub enum Influence<'a> {
    Array {
        values: &'a [f32],
        n_seeds: usize,
        valid: Option<&'a [u8]>,
    },
    Sweep {
        store: &'a Store,
        len: usize,
        n_seeds: usize,
    },
    /// Another matrix, made shard by shard. The sweep says which rows are valid.
    Made {
        store: &'a Store,
        len: usize,
        n_seeds: usize,
        make: &'a MakeShard<'a>,
    },
}

/// Makes the matrix of a shard, [rows, n_seeds], by the number of the shard. It is asked for a shard several times.
pub type MakeShard<'a> = dyn Fn(usize) -> Result<Arc<Vec<f32>>> + Sync + 'a;

/// The most shards that stay open for single rows. A process may map a limited number of files.
const OPEN: usize = 1024;

impl<'a> Influence<'a> {
    /// `values` is [n, n_seeds]. `valid` has one byte for each row, 0 for a row that may not be picked.
    pub fn array(values: &'a [f32], n_seeds: usize, valid: Option<&'a [u8]>) -> Result<Influence<'a>> {
        if n_seeds == 0 || !values.len().is_multiple_of(n_seeds) {
            let what = format!("influence: expected [rows, seeds] with at least one seed, got {n_seeds} seeds");
            return Err(Error::input(what));
        }
        let n = values.len() / n_seeds;
        match valid {
            Some(valid) if valid.len() != n => {
                Err(Error::input(format!("valid: expected {n}, one for each row, got {}", valid.len())))
            }
            _ => Ok(Influence::Array { values, n_seeds, valid }),
        }
    }

    /// The influence of a sweep without missing shards. The first shard gives the number of seeds; each other shard is
    /// compared with it when it is read.
    pub fn sweep(store: &'a Store) -> Result<Influence<'a>> {
        let len = store.check_complete()?;
        let n_seeds = if len == 0 { 0 } else { SweepShard::open(store, 0)?.view().n_seeds };
        if n_seeds == 0 {
            return Err(Error::store(store.path(), "influence: expected [rows, seeds] with at least one of each"));
        }
        Ok(Influence::Sweep { store, len, n_seeds })
    }

    /// A matrix that `make` makes, for the rows of a sweep without missing shards.
    pub fn made(store: &'a Store, n_seeds: usize, make: &'a MakeShard<'a>) -> Result<Influence<'a>> {
        let len = store.check_complete()?;
        if len == 0 || n_seeds == 0 {
            return Err(Error::store(store.path(), "relevance: expected [rows, seeds] with at least one of each"));
        }
        Ok(Influence::Made { store, len, n_seeds, make })
    }

    pub fn len(&self) -> usize {
        match *self {
            Influence::Array { values, n_seeds, .. } => values.len() / n_seeds,
            Influence::Sweep { len, .. } | Influence::Made { len, .. } => len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn n_seeds(&self) -> usize {
        match *self {
            Influence::Array { n_seeds, .. } | Influence::Sweep { n_seeds, .. } | Influence::Made { n_seeds, .. } => {
                n_seeds
            }
        }
    }

    /// Call `visit` with the valid rows of `span` in order: the number of each row, and its influence on every seed.
    pub fn with_rows<T>(&self, span: Range<usize>, visit: impl FnOnce(&[(usize, &[f32])]) -> T) -> Result<T> {
        match *self {
            Influence::Array { values, n_seeds, valid } => {
                let rows = span.filter(|&row| valid.is_none_or(|valid| valid[row] != 0));
                let rows: Vec<_> = rows.map(|row| (row, &values[row * n_seeds..][..n_seeds])).collect();
                Ok(visit(&rows))
            }
            Influence::Sweep { store, .. } => {
                let per_shard = store.rows_per_shard();
                let shards = span.start / per_shard..span.end.div_ceil(per_shard);
                let shards = shards.map(|index| self.open(index)).collect::<Result<Vec<_>>>()?;
                let mut rows = Vec::with_capacity(span.len());
                for shard in &shards {
                    let view = shard.view();
                    let here = shard.span().start.max(span.start)..shard.span().end.min(span.end);
                    rows.extend(here.filter(|&row| view.is_valid(row)).map(|row| (row, view.influence(row))));
                }
                Ok(visit(&rows))
            }
            Influence::Made { store, n_seeds, .. } => {
                let per_shard = store.rows_per_shard();
                let shards = span.start / per_shard..span.end.div_ceil(per_shard);
                let open = |index| Ok((SweepShard::open(store, index)?, self.make(index)?));
                let shards = shards.map(open).collect::<Result<Vec<_>>>()?;
                let mut rows = Vec::with_capacity(span.len());
                for (shard, values) in &shards {
                    let (view, first) = (shard.view(), shard.span().start);
                    let here = first.max(span.start)..shard.span().end.min(span.end);
                    let valid = here.filter(|&row| view.is_valid(row));
                    rows.extend(valid.map(|row| (row, &values[(row - first) * n_seeds..][..n_seeds])));
                }
                Ok(visit(&rows))
            }
        }
    }

    /// The error for a number that is not finite.
    pub fn bad(&self, row: usize, seed: usize, x: f32) -> Error {
        let what = format!("row {row}: influence on seed {seed}: expected a finite number, got {x}");
        match self {
            Influence::Array { .. } => Error::input(what),
            Influence::Sweep { store, .. } => Error::store(&store.shard_path(row / store.rows_per_shard()), what),
            Influence::Made { .. } => Error::input(what.replacen("influence on", "relevance to", 1)),
        }
    }

    fn make(&self, index: usize) -> Result<Arc<Vec<f32>>> {
        let Influence::Made { store, n_seeds, make, .. } = *self else { unreachable!("nothing else is made") };
        let (values, rows) = (make(index)?, store.shard_header(index)?.len());
        if values.len() != rows * n_seeds {
            let got = values.len();
            return Err(Error::input(format!(
                "relevance: shard {index}: expected [{rows}, {n_seeds}], got {got} numbers"
            )));
        }
        Ok(values)
    }

    fn open(&self, index: usize) -> Result<SweepShard> {
        let Influence::Sweep { store, len, n_seeds } = *self else { unreachable!("only a sweep has shards") };
        let shard = SweepShard::open(store, index)?;
        let (got, stop) = (shard.view().n_seeds, len.min((index + 1) * store.rows_per_shard()));
        if got != n_seeds {
            let what = format!("influence: expected {n_seeds} seeds, as in the first shard, got {got}");
            return Err(Error::store(shard.view().path, what));
        }
        if shard.span().end < stop {
            return Err(Error::store(
                shard.view().path,
                "became shorter while it was read; run again when nothing writes to it",
            ));
        }
        Ok(shard)
    }
}

/// Reads single rows in any order.
pub struct SingleRows<'a> {
    influence: Influence<'a>,
    open: BTreeMap<usize, SweepShard>,
    made: Vec<f32>,
}

impl<'a> SingleRows<'a> {
    pub fn new(influence: Influence<'a>) -> SingleRows<'a> {
        SingleRows { influence, open: BTreeMap::new(), made: Vec::new() }
    }

    pub fn row(&mut self, row: usize) -> Result<&[f32]> {
        match self.influence {
            Influence::Array { values, n_seeds, .. } => Ok(&values[row * n_seeds..][..n_seeds]),
            Influence::Sweep { store, .. } => {
                let index = row / store.rows_per_shard();
                if !self.open.contains_key(&index) {
                    if self.open.len() == OPEN {
                        self.open.clear();
                    }
                    self.open.insert(index, self.influence.open(index)?);
                }
                Ok(self.open[&index].view().influence(row))
            }
            Influence::Made { store, n_seeds, .. } => {
                let (index, at) = (row / store.rows_per_shard(), row % store.rows_per_shard());
                let values = self.influence.make(index)?;
                self.made.clear();
                self.made.extend_from_slice(&values[at * n_seeds..][..n_seeds]);
                Ok(&self.made)
            }
        }
    }
}
