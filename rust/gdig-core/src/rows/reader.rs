//! Blocks of rows. Rows that lie in sequence are read in place; other rows are copied.

use super::distances::{squared_norm, MAX_SQUARED_NORM};
use super::open_shards::Place;
use super::readahead::Item;
use super::source::RowSet;
use crate::convert::Rows;
use crate::{Dtype, Error, Result};

/// The memory of a worker for a block of rows that it cannot read in place.
#[derive(Default)]
pub struct Block {
    /// The rows in float32, [len, dim]. Behind them lies the rest of an earlier block.
    pub x: Vec<f32>,
    /// The rows as they are stored. A u64 is aligned to every element type.
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
    /// The bytes behind the rows, which will be read next. Empty if the rows were copied.
    pub ahead: &'a [u8],
}

/// Reads blocks of one row set. Each worker has its own reader, which keeps the two places that it read last: a block
/// may lie in both.
pub struct Reader<'a> {
    rows: RowSet<'a>,
    place: Option<Place<'a>>,
    earlier: Option<Place<'a>>,
    item: Option<Item<'a>>,
}

impl<'a> Reader<'a> {
    pub fn new(rows: RowSet<'a>) -> Reader<'a> {
        Reader { rows, place: None, earlier: None, item: None }
    }

    /// A reader of the rows of an item, which come to memory ahead of it.
    pub fn for_item(rows: RowSet<'a>, item: Item<'a>) -> Reader<'a> {
        Reader { rows, place: None, earlier: None, item: Some(item) }
    }

    /// The valid rows at positions `start..stop` in the type `RowSet::dtype`, unchecked. Rows in sequence are read in
    /// place; other rows are copied.
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
            // Only rows of one shard lie in sequence.
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

    #[cfg(test)]
    pub fn reads_directly(&self) -> bool {
        self.place.as_ref().is_some_and(Place::is_read_directly)
    }

    /// The error for the row at a position, after a computation has called the row bad.
    pub fn complaint(&mut self, position: usize) -> Error {
        let checked = self.read(position, position + 1, &mut Block::default());
        checked.err().unwrap_or_else(|| {
            let row = self.rows.row(position);
            Error::input(format!("row {row}: changed while it was read; run again when nothing writes to it"))
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
        let holds = |place: &Option<Place>| place.as_ref().is_some_and(|place| place.holds(row));
        if !holds(&self.place) {
            std::mem::swap(&mut self.place, &mut self.earlier);
        }
        if !holds(&self.place) {
            // The earlier of the two ends before the next is asked for, so that its memory serves that one.
            self.place = None;
            let place = self.item.as_ref().and_then(|item| item.place(row));
            self.place = Some(place.map_or_else(|| self.rows.source.place(row), Ok)?);
        }
        Ok(self.place.as_ref().expect("one that holds the row"))
    }

    /// How many of the first positions belong to rows in sequence.
    fn run(&self, positions: &[usize]) -> usize {
        let first = positions.first().map_or(0, |&p| self.rows.row(p));
        positions.iter().enumerate().take_while(|&(i, &p)| self.rows.row(p) == first + i).count()
    }

    /// Up to `count` rows from `first` on, as many as lie in one shard; and the bytes behind them.
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
        Some(column) => {
            Error::input(format!("row {row}, column {column}: expected a finite number, got {}", x[column]))
        }
        None => {
            Error::input(format!("row {row}: expected a squared norm below {MAX_SQUARED_NORM:e}; scale the rows down"))
        }
    }
}
