//! Where k-means reads its rows: an array, or the shards of a store, a block at a time.

use crate::rows::Rows;
use crate::store::{Shard, Store};
use crate::{Error, Result};

/// Rows as they lie: [len, dim]. Nothing is converted before it is read.
pub enum Source<'a> {
    Array(Rows<'a>),
    Store { store: &'a Store, len: usize },
}

impl<'a> Source<'a> {
    /// All rows of a store, which must have no gaps.
    pub fn store(store: &'a Store) -> Result<Source<'a>> {
        Ok(Source::Store { store, len: store.check_complete()? })
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

    /// One byte a row, 0 where a row is to be skipped. Only when some row is: else `None`.
    pub fn valid(&self) -> Result<Option<Vec<u8>>> {
        let Source::Store { store, len } = self else { return Ok(None) };
        let mut valid = vec![1u8; *len];
        for (index, chunk) in valid.chunks_mut(store.rows_per_shard()).enumerate() {
            if let Some(stored) = store.shard(index)?.valid()? {
                chunk.copy_from_slice(stored);
            }
        }
        Ok(valid.contains(&0).then_some(valid))
    }
}

/// The rows that a computation goes over, in order: all of a source's, or a list of them.
#[derive(Clone, Copy)]
pub struct RowSet<'a> {
    pub source: &'a Source<'a>,
    /// Ascending row numbers; `None` means all rows.
    pub list: Option<&'a [u64]>,
    /// One byte a row of the source, 0 to skip it.
    pub valid: Option<&'a [u8]>,
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

    pub fn row(&self, position: usize) -> usize {
        self.list.map_or(position, |list| list[position] as usize)
    }
}

/// A block of rows as float32.
#[derive(Default)]
pub struct Block {
    /// [len, dim], then what is left of an earlier block.
    pub x: Vec<f32>,
    /// The position of each row.
    pub positions: Vec<usize>,
}

/// Reads blocks of one row set; a worker has its own. Keeps the shard that it read last open.
pub struct Reader<'a> {
    rows: RowSet<'a>,
    open: Option<(usize, Shard)>,
}

/// Squared norms stay below this, so that neither a product of two rows nor a squared distance overflows float32.
const MAX_SQUARED_NORM: f32 = f32::MAX / 8.0;

impl<'a> Reader<'a> {
    pub fn new(rows: RowSet<'a>) -> Reader<'a> {
        Reader { rows, open: None }
    }

    /// Read the valid rows at positions `start..stop`.
    pub fn read(&mut self, start: usize, stop: usize, block: &mut Block) -> Result<()> {
        let dim = self.rows.source.dim();
        let valid = self.rows.valid;
        let rows = self.rows;
        block.positions.clear();
        block.positions.extend((start..stop).filter(|&p| valid.is_none_or(|v| v[rows.row(p)] != 0)));
        block.x.resize(block.positions.len().max(block.x.len() / dim) * dim, 0.0);
        let mut done = 0;
        while done < block.positions.len() {
            // A run of neighbouring rows is decoded in one go.
            let first = rows.row(block.positions[done]);
            let run = block.positions[done..].iter().enumerate();
            let count = run.take_while(|&(i, &p)| rows.row(p) == first + i).count();
            let count = self.decode(first, count, &mut block.x[done * dim..])?;
            done += count;
        }
        for (x, &position) in block.x.chunks_exact_mut(dim).zip(&block.positions) {
            let squared_norm = squared_norm(x);
            if squared_norm >= MAX_SQUARED_NORM || squared_norm.is_nan() {
                return Err(bad_row(rows.row(position), x));
            }
            if rows.unit_normalize && squared_norm > 0.0 {
                let norm = squared_norm.sqrt();
                x.iter_mut().for_each(|x| *x /= norm);
            }
        }
        Ok(())
    }

    /// Decode up to `count` rows from `first` on, as many as lie in one shard; returns how many.
    fn decode(&mut self, first: usize, count: usize, out: &mut [f32]) -> Result<usize> {
        let dim = self.rows.source.dim();
        match self.rows.source {
            Source::Array(rows) => {
                rows.slice(first, first + count).decode(&mut out[..count * dim]);
                Ok(count)
            }
            Source::Store { store, .. } => {
                let (index, offset) = (first / store.rows_per_shard(), first % store.rows_per_shard());
                let shard = match self.open.take() {
                    Some((open, shard)) if open == index => shard,
                    _ => store.shard(index)?,
                };
                let (_, shard) = self.open.insert((index, shard));
                if offset >= shard.len() {
                    return Err(Error::store(shard.file.path(), "became shorter while it was read"));
                }
                let count = count.min(shard.len() - offset);
                shard.rows().slice(offset, offset + count).decode(&mut out[..count * dim]);
                Ok(count)
            }
        }
    }
}

fn bad_row(row: usize, x: &[f32]) -> Error {
    match x.iter().position(|x| !x.is_finite()) {
        Some(column) => Error::input(format!("row {row}, column {column}: {}, expected a finite number", x[column])),
        None => Error::input(format!("row {row}: its squared norm is beyond {MAX_SQUARED_NORM:e}")),
    }
}

/// Lanes of the sums over columns below: fixed, so that the order of the additions is.
const LANES: usize = 16;

/// sum_j f(a_j, b_j)^2 in `LANES` float32 sums, which are then added in a fixed order.
#[inline(always)]
fn sum_of_squares(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let mut tail = 0f32;
    for (a, b) in a_chunks.remainder().iter().zip(b_chunks.remainder()) {
        let d = f(*a, *b);
        tail += d * d;
    }
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            let d = f(a[lane], b[lane]);
            lanes[lane] += d * d;
        }
    }
    lanes.iter().fold(tail, |sum, lane| sum + lane)
}

pub fn squared_norm(a: &[f32]) -> f32 {
    sum_of_squares(a, a, |a, _| a)
}

pub fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    sum_of_squares(a, b, |a, b| a - b)
}
