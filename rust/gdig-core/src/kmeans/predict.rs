//! The labels of rows, and their distances to their centroids.

use super::options::check_centroids;
use super::tally::{BadRow, Tally};
use crate::interrupt::Supervisor;
use crate::parallel::{in_order, thread_pool};
use crate::rows::readahead::{with_readahead, Item, Items};
use crate::rows::{Block, Reader, RowSet, Source};
use crate::simd::{Assigner, Kernel, Scratch};
use crate::{Error, Result};

/// The label of an invalid row.
pub const INVALID: u32 = u32::MAX;
/// The rows that a worker takes at once.
pub const STEP: usize = 2048;

/// The centroids, and how to search them.
pub struct Model<'a> {
    /// [K, dim].
    pub centroids: &'a [f32],
    pub unit_normalize: bool,
    /// `None` means the fastest kernel for the rows.
    pub kernel: Option<Kernel>,
    /// 0 means as many threads as the machine has cores.
    pub n_threads: usize,
}

impl Model<'_> {
    pub fn check(&self, source: &Source) -> Result<()> {
        let (len, dim) = (self.centroids.len(), source.dim());
        if len == 0 || len % dim != 0 {
            return Err(Error::input(format!(
                "rows have {dim} columns: expected finite centroids [K, {dim}], got {len} numbers"
            )));
        }
        check_centroids(self.centroids, dim).map_err(Error::input)
    }
}

/// Labels rows. Holds the rows, and the centroids laid out for the kernel.
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

    /// Write the nearest centroid of each row of an item, which begins at `start`, and the distance to it. The slices
    /// come filled with `INVALID` and NaN, which stay for invalid rows.
    pub fn label(&self, start: usize, item: Item, labels: &mut [u32], distances: &mut [f32]) -> Result<()> {
        let mut reader = Reader::for_item(self.rows, item);
        let (mut block, mut scratch) = (Block::default(), Scratch::default());
        let (mut tally, mut block_labels) = (Tally::new(None), Vec::new());
        for first in (0..labels.len()).step_by(self.assigner.block_rows()) {
            self.supervisor.check()?;
            let last = labels.len().min(first + self.assigner.block_rows());
            let view = reader.view(start + first, start + last, &mut block)?;
            block_labels.resize(view.rows.len(), 0);
            self.assigner.assign(view.rows, view.ahead, &mut block_labels, &mut scratch);
            if let Err(BadRow(i)) = tally.measure(view.rows, &block_labels, self.centroids) {
                let position = view.positions[i];
                return Err(reader.complaint(position));
            }
            for ((&label, distance), &position) in block_labels.iter().zip(&tally.distances).zip(view.positions) {
                labels[position - start] = label;
                distances[position - start] = distance.sqrt();
            }
        }
        Ok(())
    }
}

/// The nearest centroid of each row, [len], and the distance to it. Invalid rows have `INVALID` and NaN.
pub fn predict(source: &Source, model: &Model, supervisor: &Supervisor) -> Result<(Vec<u32>, Vec<f32>)> {
    model.check(source)?;
    let rows = RowSet { source, list: None, unit_normalize: model.unit_normalize };
    let labeller = Labeller::new(rows, model, supervisor)?;
    let (mut labels, mut distances) = (vec![INVALID; rows.len()], vec![f32::NAN; rows.len()]);
    let steps = labels.chunks_mut(STEP).zip(distances.chunks_mut(STEP)).enumerate();
    thread_pool(model.n_threads)?.install(|| {
        with_readahead(rows, 0..rows.len(), Items { rows: STEP, restart: usize::MAX }, |ahead| {
            in_order(steps, |(number, (labels, distances))| {
                let start = number * STEP;
                labeller.label(start, ahead.begin(start..start + labels.len()), labels, distances)
            })
        })
    })?;
    Ok((labels, distances))
}
