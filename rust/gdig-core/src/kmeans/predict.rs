//! Labels and distances of rows.

use super::options::check_centroids;
use super::tally::{BadRow, Tally};
use crate::interrupt::Supervisor;
use crate::parallel::{in_order, thread_pool};
use crate::rows::readahead::with_readahead;
use crate::rows::{Block, Reader, RowSet, Source};
use crate::simd::{Assigner, Kernel, Scratch};
use crate::{Error, Result};

/// Label of a row that is invalid.
pub const INVALID: u32 = u32::MAX;
/// Rows that a worker takes at once.
pub const STEP: usize = 2048;

/// What prediction needs beside the rows.
pub struct Model<'a> {
    /// [K, dim].
    pub centroids: &'a [f32],
    pub unit_normalize: bool,
    /// `None`: the fastest for the rows.
    pub kernel: Option<Kernel>,
    /// 0: as many as the machine has.
    pub n_threads: usize,
}

impl Model<'_> {
    pub fn check(&self, source: &Source) -> Result<()> {
        let (len, dim) = (self.centroids.len(), source.dim());
        if len == 0 || len % dim != 0 {
            return Err(Error::input(format!("rows have {dim} columns: expected finite centroids [K, {dim}]")));
        }
        check_centroids(self.centroids, dim).map_err(Error::input)
    }
}

/// Labels rows: the centroids laid out for the kernel, and the rows.
pub struct Labeller<'a> {
    pub rows: RowSet<'a>,
    centroids: &'a [f32],
    assigner: Assigner,
    pub supervisor: &'a Supervisor<'a>,
}

impl<'a> Labeller<'a> {
    pub fn new(rows: RowSet<'a>, model: &Model<'a>, supervisor: &'a Supervisor) -> Result<Labeller<'a>> {
        let assigner = Assigner::new(rows.kernel(model.kernel), model.centroids, rows.source.dim(), rows.dtype())?;
        Ok(Labeller { rows, centroids: model.centroids, assigner, supervisor })
    }

    /// The nearest centroid of each row from `start` on, and the distance to it. Both slices come with `INVALID` and
    /// NaN, which stay for invalid rows.
    pub fn label(&self, start: usize, labels: &mut [u32], distances: &mut [f32]) -> Result<()> {
        let (mut reader, mut block, mut scratch) = (Reader::new(self.rows), Block::default(), Scratch::default());
        let (mut tally, mut found) = (Tally::new(None), Vec::new());
        for first in (0..labels.len()).step_by(self.assigner.block_rows()) {
            self.supervisor.check()?;
            let last = labels.len().min(first + self.assigner.block_rows());
            let view = reader.view(start + first, start + last, &mut block)?;
            found.resize(view.rows.len(), 0);
            self.assigner.assign(view.rows, view.ahead, &mut found, &mut scratch);
            if let Err(BadRow(i)) = tally.measure(view.rows, &found, self.centroids) {
                let position = view.positions[i];
                return Err(reader.complaint(position));
            }
            for ((&label, distance), &position) in found.iter().zip(&tally.distances).zip(view.positions) {
                labels[position - start] = label;
                distances[position - start] = distance.sqrt();
            }
        }
        Ok(())
    }
}

/// The nearest centroid of each row [len] and the distance to it; `INVALID` and NaN for invalid rows.
pub fn predict(source: &Source, model: &Model, supervisor: &Supervisor) -> Result<(Vec<u32>, Vec<f32>)> {
    model.check(source)?;
    let rows = RowSet { source, list: None, unit_normalize: model.unit_normalize };
    let labeller = Labeller::new(rows, model, supervisor)?;
    let (mut labels, mut distances) = (vec![INVALID; rows.len()], vec![f32::NAN; rows.len()]);
    let steps = labels.chunks_mut(STEP).zip(distances.chunks_mut(STEP)).enumerate();
    thread_pool(model.n_threads)?.install(|| {
        with_readahead(rows, 0..rows.len(), |ahead| {
            in_order(steps, |(number, (labels, distances))| {
                ahead.reached(number * STEP);
                labeller.label(number * STEP, labels, distances)
            })
        })
    })?;
    Ok((labels, distances))
}
