//! The rows of a cluster, in memory or read anew in each step.

use crate::rows::products::products;
use crate::rows::{Block, Reader, RowSet};
use crate::Result;

/// The rows that are read at once.
const STEP: usize = 1024;

pub enum Members<'a> {
    /// [rows, dim].
    Held {
        x: Vec<f32>,
        dim: usize,
    },
    Streamed(RowSet<'a>),
}

impl<'a> Members<'a> {
    /// The rows go to memory if they take at most `most_bytes`.
    pub fn new(rows: RowSet<'a>, most_bytes: usize) -> Result<Members<'a>> {
        let dim = rows.source.dim();
        if rows.len().saturating_mul(dim * size_of::<f32>()) > most_bytes {
            return Ok(Members::Streamed(rows));
        }
        let mut x = Vec::with_capacity(rows.len() * dim);
        let members = Members::Streamed(rows);
        members.each(|_, rows| x.extend_from_slice(rows))?;
        Ok(Members::Held { x, dim })
    }

    pub fn len(&self) -> usize {
        match self {
            Members::Held { x, dim } => x.len() / dim,
            Members::Streamed(rows) => rows.len(),
        }
    }

    pub fn dim(&self) -> usize {
        match self {
            Members::Held { dim, .. } => *dim,
            Members::Streamed(rows) => rows.source.dim(),
        }
    }

    /// The mean of the rows.
    pub fn mean(&self) -> Result<Vec<f64>> {
        let mut sums = vec![0f64; self.dim()];
        self.each(|_, rows| {
            for row in rows.chunks_exact(sums.len()) {
                sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
            }
        })?;
        sums.iter_mut().for_each(|sum| *sum /= self.len() as f64);
        Ok(sums)
    }

    /// The squared length of each row.
    pub fn squared_lengths(&self) -> Result<Vec<f64>> {
        let mut lengths = Vec::with_capacity(self.len());
        let squared = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        self.each(|_, rows| lengths.extend(rows.chunks_exact(self.dim()).map(squared)))?;
        Ok(lengths)
    }

    /// Write the product of each row with `direction` to `out`.
    pub fn products(&self, direction: &[f64], out: &mut [f64]) -> Result<()> {
        self.each(|first, rows| {
            let out = &mut out[first..first + rows.len() / direction.len()];
            products(rows, direction, out);
        })
    }

    pub fn row(&self, i: usize) -> Result<Vec<f32>> {
        match self {
            Members::Held { x, dim } => Ok(x[i * dim..][..*dim].to_vec()),
            Members::Streamed(rows) => {
                let mut block = Block::default();
                Reader::new(*rows).read(i, i + 1, &mut block)?;
                block.x.truncate(rows.source.dim());
                Ok(block.x)
            }
        }
    }

    /// Call `visit` with runs of rows in order, and with the place of the first row of each run.
    fn each(&self, mut visit: impl FnMut(usize, &[f32])) -> Result<()> {
        match self {
            Members::Held { x, .. } => visit(0, x),
            Members::Streamed(rows) => {
                let (mut reader, mut block) = (Reader::new(*rows), Block::default());
                for start in (0..rows.len()).step_by(STEP) {
                    let stop = rows.len().min(start + STEP);
                    reader.read(start, stop, &mut block)?;
                    visit(start, &block.x[..(stop - start) * rows.source.dim()]);
                }
            }
        }
        Ok(())
    }
}
