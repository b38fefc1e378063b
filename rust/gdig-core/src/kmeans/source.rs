//! Where k-means reads its rows: an array, or the shards of a store, a block at a time.

use super::place::{OpenShards, Place};
use super::Kernel;
use crate::interrupt::Supervisor;
use crate::rows::Rows;
use crate::store::Store;
use crate::{Dtype, Error, Result};

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

/// Where a worker keeps a block of rows that cannot be read in place.
#[derive(Default)]
pub struct Block {
    /// In float32, [len, dim], then what is left of an earlier block.
    pub x: Vec<f32>,
    /// As they are stored; a u64 is aligned to every element type.
    stored: Vec<u64>,
    pub scales: Vec<f32>,
    /// The position of each row.
    pub positions: Vec<usize>,
}

/// A block of rows to compute with.
pub struct View<'a> {
    pub rows: Rows<'a>,
    /// The position of each.
    pub positions: &'a [usize],
    /// What lies behind them and is read next, if they were read in place.
    pub ahead: &'a [u8],
}

/// Reads blocks of one row set; a worker has its own. Keeps the place that it read last.
pub struct Reader<'a> {
    rows: RowSet<'a>,
    place: Option<Place<'a>>,
}

/// Squared norms stay below this, so that neither a product of two rows nor a squared distance overflows float32.
pub const MAX_SQUARED_NORM: f32 = f32::MAX / 8.0;

impl<'a> Reader<'a> {
    pub fn new(rows: RowSet<'a>) -> Reader<'a> {
        Reader { rows, place: None }
    }

    /// The valid rows at positions `start..stop` in the type `RowSet::dtype`, unchecked: in place if they lie one after
    /// the other, else copied.
    pub fn view<'s>(&'s mut self, start: usize, stop: usize, block: &'s mut Block) -> Result<View<'s>> {
        let (dim, dtype) = (self.rows.source.dim(), self.rows.dtype());
        if dtype != self.rows.source.dtype() || self.rows.unit_normalize {
            self.read(start, stop, block)?;
            let x = &block.x[..block.positions.len() * dim];
            let rows = Rows::new(Dtype::F32, dim, bytemuck::cast_slice(x), &[])?;
            return Ok(View { rows, positions: &block.positions, ahead: &[] });
        }
        self.choose(start, stop, block)?;
        let n = block.positions.len();
        if n > 0 && self.run(&block.positions) == n {
            let first = self.rows.row(block.positions[0]);
            // Only rows of one shard lie one after the other.
            if self.piece(first, n)?.0.len() == n {
                let (rows, ahead) = self.piece(first, n)?;
                return Ok(View { rows, positions: &block.positions, ahead });
            }
        }
        let size = dim * dtype.size();
        let mut stored = std::mem::take(&mut block.stored);
        stored.resize((n * size).div_ceil(8), 0);
        self.stored(start, stop, block, bytemuck::cast_slice_mut(&mut stored))?;
        block.stored = stored;
        let bytes = &bytemuck::cast_slice(&block.stored)[..n * size];
        Ok(View { rows: Rows::new(dtype, dim, bytes, &block.scales)?, positions: &block.positions, ahead: &[] })
    }

    /// Copy the valid rows at positions `start..stop` as they are stored to `out`, and their scales to the block.
    pub fn stored(&mut self, start: usize, stop: usize, block: &mut Block, out: &mut [u8]) -> Result<()> {
        self.choose(start, stop, block)?;
        block.scales.clear();
        let (mut done, mut at) = (0, 0);
        while done < block.positions.len() {
            let count = self.run(&block.positions[done..]);
            let (rows, _) = self.piece(self.rows.row(block.positions[done]), count)?;
            out[at..][..rows.bytes().len()].copy_from_slice(rows.bytes());
            block.scales.extend_from_slice(rows.scales());
            done += rows.len();
            at += rows.bytes().len();
        }
        Ok(())
    }

    /// Read the valid rows at positions `start..stop` as float32, and check them.
    pub fn read(&mut self, start: usize, stop: usize, block: &mut Block) -> Result<()> {
        let dim = self.rows.source.dim();
        self.choose(start, stop, block)?;
        block.x.resize(block.positions.len().max(block.x.len() / dim) * dim, 0.0);
        let mut done = 0;
        while done < block.positions.len() {
            // A run of neighbouring rows is decoded in one go.
            let count = self.run(&block.positions[done..]);
            let (rows, _) = self.piece(self.rows.row(block.positions[done]), count)?;
            rows.decode(&mut block.x[done * dim..][..rows.len() * dim]);
            done += rows.len();
        }
        for (x, &position) in block.x.chunks_exact_mut(dim).zip(&block.positions) {
            let squared_norm = squared_norm(x);
            if squared_norm >= MAX_SQUARED_NORM || squared_norm.is_nan() {
                return Err(bad_row(self.rows.row(position), x));
            }
            if self.rows.unit_normalize && squared_norm > 0.0 {
                let norm = squared_norm.sqrt();
                x.iter_mut().for_each(|x| *x /= norm);
            }
        }
        Ok(())
    }

    /// What is wrong with the row at a position that a computation found to be bad.
    pub fn complaint(&mut self, position: usize) -> Error {
        let checked = self.read(position, position + 1, &mut Block::default());
        checked.err().unwrap_or_else(|| {
            let row = self.rows.row(position);
            Error::input(format!("row {row}: changed while it was read"))
        })
    }

    /// The positions in `start..stop` of valid rows.
    fn choose(&mut self, start: usize, stop: usize, block: &mut Block) -> Result<()> {
        block.positions.clear();
        if self.rows.list.is_some() {
            block.positions.extend(start..stop);
            return Ok(());
        }
        let mut first = start;
        while first < stop {
            let place = self.place(first)?;
            let end = first + place.rows(first, stop).len();
            match place.valid(first, end)? {
                None => block.positions.extend(first..end),
                Some(valid) => block.positions.extend((first..end).zip(valid).filter(|(_, &v)| v != 0).map(|(p, _)| p)),
            }
            first = end;
        }
        Ok(())
    }

    /// The place of a row: mostly the one that was read last.
    fn place(&mut self, row: usize) -> Result<&Place<'a>> {
        let place = match self.place.take() {
            Some(place) if place.holds(row) => place,
            _ => self.rows.source.place(row)?,
        };
        Ok(self.place.insert(place))
    }

    /// How many of the first positions are of rows that lie one after the other.
    fn run(&self, positions: &[usize]) -> usize {
        let first = positions.first().map_or(0, |&p| self.rows.row(p));
        positions.iter().enumerate().take_while(|&(i, &p)| self.rows.row(p) == first + i).count()
    }

    /// Up to `count` rows from `first` on, as many as lie in one shard, and what may be read soon behind them.
    fn piece(&mut self, first: usize, count: usize) -> Result<(Rows<'_>, &[u8])> {
        let place = self.place(first)?;
        let rows = place.rows(first, first + count);
        let ahead = place.rows(first, first + 2 * count);
        let ahead = ahead.slice(rows.len(), ahead.len()).bytes();
        Ok((rows, ahead))
    }
}

fn bad_row(row: usize, x: &[f32]) -> Error {
    match x.iter().position(|x| !x.is_finite()) {
        Some(column) => Error::input(format!("row {row}, column {column}: {}, expected a finite number", x[column])),
        None => Error::input(format!("row {row}: its squared norm is beyond {MAX_SQUARED_NORM:e}")),
    }
}

/// Lanes of the sums over columns below: fixed, so that the order of the additions is.
pub const LANES: usize = 16;

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

#[inline(always)]
pub fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    sum_of_squares(a, b, |a, b| a - b)
}
