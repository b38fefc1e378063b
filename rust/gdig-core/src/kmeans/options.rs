//! What a fit is asked for, and what comes of it.

use std::path::PathBuf;

use crate::rows::distances::{squared_norm, MAX_SQUARED_NORM};
use crate::simd::Kernel;

/// Where Lloyd's algorithm starts.
pub enum Init {
    PlusPlus,
    /// [K, dim].
    Centroids(Vec<f32>),
}

pub struct Options {
    pub n_clusters: usize,
    pub init: Init,
    pub max_iter: usize,
    /// Stop when an iteration lowers the inertia by no more than this share.
    pub tol: f64,
    pub seed: u64,
    /// Train on so many rows, chosen by a seeded hash; `None` on all.
    pub train_rows: Option<usize>,
    pub unit_normalize: bool,
    /// `None`: the fastest for the rows.
    pub kernel: Option<Kernel>,
    /// 0: as many as the machine has.
    pub n_threads: usize,
    /// A file that is written after each iteration, and from which a fit that was killed goes on.
    pub resume_file: Option<PathBuf>,
}

/// Centroids, and what the training rows say about them.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// [K, dim].
    pub centroids: Vec<f32>,
    /// Sum over the training rows of the squared distance to the nearest of `centroids`.
    pub inertia: f64,
    pub n_iter: usize,
    /// Training rows nearest to each of `centroids`, [K].
    pub counts: Vec<u64>,
}

/// What rows must be, so that no distance overflows, centroids must be too.
pub fn check_centroids(centroids: &[f32], dim: usize) -> std::result::Result<(), String> {
    let sound = |c: &[f32]| squared_norm(c) < MAX_SQUARED_NORM;
    centroids.chunks_exact(dim).position(|c| !sound(c)).map_or(Ok(()), |k| {
        Err(format!("expected finite centroids with squared norms below {MAX_SQUARED_NORM:e}; centroid {k} is not one"))
    })
}
