//! Rows scaled to unit length, and their cosines.

use super::open_shards::Place;
use super::products::dot;
use super::reader::{Block, Reader};
use super::source::{RowSet, Source};
use crate::interrupt::Supervisor;
use crate::parallel::in_order;
use crate::{Error, Result};

/// Rows that are read at once.
const STEP: usize = 1024;

/// The cosine of two rows at unit length: their product in float64, rounded to float32. It is clamped to -1..1, which
/// the rounding of the columns could exceed.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    (dot(a, b) as f32).clamp(-1.0, 1.0)
}

/// Scale to unit length in float64; each column is rounded to float32 once. A row of zeros stays a row of zeros.
pub fn scale(x: &mut [f32]) {
    let norm = dot(x, x).sqrt();
    if norm > 0.0 {
        x.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
}

/// Reads rows at unit length, in any order. Each worker has its own reader.
pub struct Units<'a> {
    source: &'a Source<'a>,
    block: Block,
}

impl<'a> Units<'a> {
    pub fn new(source: &'a Source<'a>) -> Units<'a> {
        Units { source, block: Block::default() }
    }

    /// The valid rows `list` to `out`, [list, dim].
    pub fn read(&mut self, list: &[u64], out: &mut [f32]) -> Result<()> {
        let set = RowSet { source: self.source, list: Some(list), unit_normalize: false };
        let mut reader = Reader::new(set);
        let dim = self.source.dim();
        for start in (0..list.len()).step_by(STEP) {
            let stop = list.len().min(start + STEP);
            reader.read(start, stop, &mut self.block)?;
            let out = &mut out[start * dim..stop * dim];
            out.copy_from_slice(&self.block.x[..out.len()]);
            out.chunks_exact_mut(dim).for_each(scale);
        }
        Ok(())
    }
}

/// The valid rows `list` at unit length, [list, dim], read on the threads of the pool.
pub fn gather(source: &Source, list: &[u64], supervisor: &Supervisor) -> Result<Vec<f32>> {
    let dim = source.dim();
    let mut out = vec![0f32; list.len() * dim];
    in_order(list.chunks(STEP).zip(out.chunks_mut(STEP * dim)), |(list, out)| {
        supervisor.check()?;
        Units::new(source).read(list, out)
    })?;
    Ok(out)
}

/// All valid rows, ascending.
pub fn valid_rows(source: &Source, supervisor: &Supervisor) -> Result<Vec<u64>> {
    if source.len() >= u32::MAX as usize {
        let what = format!("expected fewer than {} rows, got {}", u32::MAX, source.len());
        return Err(Error::input(what));
    }
    let mut rows = Vec::with_capacity(source.len());
    source.each_valid(supervisor, |row| rows.push(row as u64))?;
    Ok(rows)
}

/// Reads single rows at unit length, in any order. All places stay open.
pub struct AnyUnit<'a> {
    places: Vec<Place<'a>>,
    rows_each: usize,
}

impl<'a> AnyUnit<'a> {
    pub fn new(source: &'a Source<'a>) -> Result<AnyUnit<'a>> {
        let rows_each = match source {
            Source::Array(rows) => rows.len().max(1),
            Source::Store { store, .. } => store.rows_per_shard(),
        };
        let places = (0..source.len()).step_by(rows_each).map(|row| source.place(row)).collect::<Result<_>>()?;
        Ok(AnyUnit { places, rows_each })
    }

    /// Write row `row` to `out`, [dim]. The caller has read the row before, so its numbers are finite.
    pub fn read(&self, row: usize, out: &mut [f32]) {
        self.places[row / self.rows_each].rows(row, row + 1).decode(out);
        scale(out);
    }
}
