//! Lloyd's iterations.

use super::options::{Fitted, Options};
use super::partial::Pass;
use super::peers::Peers;
use super::resume_file::{ResumeFile, State};
use super::update::{normalize, reseed, update};
use super::waves::{Memory, Sums, Waves};
use crate::interrupt::{Progress, Supervisor};
use crate::rows::readahead::{with_readahead, Items};
use crate::rows::RowSet;
use crate::simd::Assigner;
use crate::Result;

/// The state before the first iteration.
pub fn start(mut centroids: Vec<f32>, dim: usize, options: &Options) -> State {
    if options.unit_normalize {
        centroids.chunks_exact_mut(dim).for_each(normalize);
    }
    let counts = vec![0; options.n_clusters];
    State { centroids, counts, n_iter: 0, inertia: f64::INFINITY, ended: false }
}

pub fn run(
    rows: RowSet,
    mut state: State,
    offset: &[f32],
    options: &Options,
    resume_file: Option<&ResumeFile>,
    peers: Option<&dyn Peers>,
    supervisor: &Supervisor,
) -> Result<Fitted> {
    let mut memory = Memory::default();
    let mut pass = |centroids: &[f32]| pass(rows, (centroids, offset), options, &mut memory, peers, supervisor);
    while !state.ended && state.n_iter < options.max_iter {
        let mut total = pass(&state.centroids)?;
        let reseeded = reseed(rows, offset, options.weights.as_deref(), &mut total)?;
        let updated = update(&total, &state.centroids, offset, options.unit_normalize);
        let squares = updated.iter().zip(&state.centroids).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        let shift = squares.sum::<f64>().sqrt();
        // The first iteration has no earlier inertia. After a reseeding the next iteration is bound to gain.
        let gain = state.inertia - total.inertia;
        let slow = state.inertia.is_finite() && reseeded == 0 && gain <= options.tol * state.inertia;
        let Pass { counts, inertia, .. } = total;
        let (n_iter, ended) = (state.n_iter + 1, slow || shift == 0.0);
        state = State { centroids: updated, counts, n_iter, inertia, ended };
        if let Some(resume_file) = resume_file {
            resume_file.write(&state)?;
        }
        supervisor.report(Progress::Iteration { iteration: n_iter, inertia, shift });
        if shift == 0.0 && reseeded == 0 {
            let State { centroids, counts, .. } = state;
            return Ok(Fitted { centroids, inertia, n_iter, counts });
        }
    }
    // The result has the inertia and the counts of the returned centroids, not those before the last update.
    let Pass { counts, inertia, .. } = pass(&state.centroids)?;
    Ok(Fitted { centroids: state.centroids, inertia, n_iter: state.n_iter, counts })
}

/// Assign all rows to `centroids`, and add them up. `memory` serves all passes.
fn pass(
    rows: RowSet,
    (centroids, offset): (&[f32], &[f32]),
    options: &Options,
    memory: &mut Memory,
    peers: Option<&dyn Peers>,
    supervisor: &Supervisor,
) -> Result<Pass<f64>> {
    if let Some(peers) = peers {
        peers.give(centroids)?;
    }
    let k = options.n_clusters;
    let weights = vec![0.0; if options.weights.is_some() { k } else { 0 }];
    let mut total = Pass { sums: vec![0f64; centroids.len()], counts: vec![0; k], weights, ..Pass::default() };
    let waves = Waves::new(rows, options, peers.is_some());
    let items = Items { rows: waves.chunk_rows, restart: usize::MAX };
    with_readahead(rows, 0..rows.len(), items, |ahead| {
        let assigner = Assigner::new(rows.kernel(options.kernel), centroids, rows.source.dim(), rows.dtype())?;
        let moves = memory.moves(&waves, &assigner, centroids, k);
        let sums = Sums { centroids, offset, weights: options.weights.as_deref(), assigner: &assigner, moves };
        for (number, chunks) in waves.all().enumerate() {
            let from = peers.map_or(0, |peers| number % peers.world());
            // A row nearer than the nearest of the farthest rows so far cannot become one of them.
            let floor = (total.far.len() == waves.n_far).then(|| *total.far.last().expect("k is not zero"));
            if from == 0 {
                waves.sum(rows, chunks.clone(), &sums, floor, memory, ahead, supervisor)?;
            } else {
                ahead.reached(chunks.end * waves.chunk_rows);
                let (shape, peers) = ((k, centroids.len()), peers.expect("from is not 0"));
                waves.take(chunks.len(), from, shape, peers, &mut memory.partials, supervisor)?;
            }
            total.fold(&mut memory.partials[..chunks.len()], waves.n_far);
        }
        Ok(total)
    })
}

/// The part of this process in a pass: the sums of the chunks of its waves.
pub fn help(
    rows: RowSet,
    (centroids, offset): (&[f32], &[f32]),
    options: &Options,
    memory: &mut Memory,
    peers: &dyn Peers,
    supervisor: &Supervisor,
) -> Result<()> {
    let waves = Waves::new(rows, options, true);
    let items = Items { rows: waves.chunk_rows, restart: usize::MAX };
    with_readahead(rows, 0..rows.len(), items, |ahead| {
        let assigner = Assigner::new(rows.kernel(options.kernel), centroids, rows.source.dim(), rows.dtype())?;
        let moves = memory.moves(&waves, &assigner, centroids, options.n_clusters);
        let sums = Sums { centroids, offset, weights: None, assigner: &assigner, moves };
        for (number, chunks) in waves.all().enumerate() {
            if number % peers.world() != peers.rank() {
                ahead.reached(chunks.end * waves.chunk_rows);
                continue;
            }
            waves.sum(rows, chunks.clone(), &sums, None, memory, ahead, supervisor)?;
            for partial in &memory.partials[..chunks.len()] {
                peers.send(&partial.to_bytes(waves.n_far))?;
            }
        }
        Ok(())
    })
}
