//! All rows of a set, copied to memory.

use rayon::prelude::*;

use super::reader::{Block, Reader};
use super::source::RowSet;
use crate::interrupt::Supervisor;
use crate::parallel::in_order;
use crate::Result;

/// All rows of the set as float32, [len, dim]. All of them must be valid.
pub fn gather(rows: RowSet, supervisor: &Supervisor) -> Result<Vec<f32>> {
    const STEP: usize = 1024;
    let dim = rows.source.dim();
    let mut out = vec![0f32; rows.len() * dim];
    let read = |(number, out): (usize, &mut [f32])| {
        supervisor.check()?;
        let mut block = Block::default();
        Reader::new(rows).read(number * STEP, number * STEP + out.len() / dim, &mut block)?;
        out.copy_from_slice(&block.x[..out.len()]);
        Ok(())
    };
    in_order(out.chunks_mut(STEP * dim).enumerate(), read)?;
    Ok(out)
}

/// All rows of the set as they are stored, checked, and their int8 scales. All of them must be valid.
pub fn gather_stored(rows: RowSet, supervisor: &Supervisor) -> Result<(Vec<u64>, Vec<f32>)> {
    /// Rows at once. Rows of every type take a whole number of u64 then.
    const STEP: usize = 1024;
    // The reader of the copy applies unit_normalize.
    let rows = RowSet { unit_normalize: false, ..rows };
    let size = rows.source.dim() * rows.source.dtype().size();
    let mut out = vec![0u64; (rows.len() * size).div_ceil(8)];
    let copy = |(number, out): (usize, &mut [u64])| {
        supervisor.check()?;
        let (start, stop) = (number * STEP, rows.len().min((number + 1) * STEP));
        let mut reader = Reader::new(rows);
        reader.read(start, stop, &mut Block::default())?;
        let mut block = Block::default();
        reader.stored(start, stop, &mut block, bytemuck::cast_slice_mut(out))?;
        Ok(block.scales)
    };
    let scales: Vec<Result<Vec<f32>>> = out.par_chunks_mut(STEP * size / 8).enumerate().map(copy).collect();
    let scales = scales.into_iter().collect::<Result<Vec<_>>>()?;
    Ok((out, scales.concat()))
}
