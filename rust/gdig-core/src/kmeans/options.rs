//! The options of a fit, and its result.

use std::path::PathBuf;

use crate::rows::distances::{squared_norm, MAX_SQUARED_NORM};
use crate::simd::Kernel;

/// The start of Lloyd's algorithm.
#[derive(Clone)]
pub enum Init {
    PlusPlus,
    /// [K, dim].
    Centroids(Vec<f32>),
}

#[derive(Clone)]
pub struct Options {
    pub n_clusters: usize,
    pub init: Init,
    pub max_iter: usize,
    /// The fit ends when an iteration lowers the inertia by no more than this share.
    pub tol: f64,
    pub random_state: u64,
    /// The number of rows to train on, drawn by a hash. `None` means all valid rows.
    pub train_rows: Option<usize>,
    pub unit_normalize: bool,
    /// `None` means the fastest kernel for the rows.
    pub kernel: Option<Kernel>,
    /// 0 means as many threads as the machine has cores.
    pub n_threads: usize,
    /// How much each row of the source counts, from 0 to 1. `None` means that all rows count 1. A row of 0 is no training
    /// row.
    pub weights: Option<Vec<f32>>,
    /// The fit writes this file after each iteration. A fit that was killed resumes from it.
    pub resume_file: Option<PathBuf>,
}

/// The centroids of a fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// [K, dim].
    pub centroids: Vec<f32>,
    /// The sum over the training rows of the squared distance to the nearest centroid, times the weight of the row.
    pub inertia: f64,
    pub n_iter: usize,
    /// The number of training rows nearest to each centroid, [K].
    pub counts: Vec<u64>,
}

/// Centroids have the same bound as rows, so that no distance overflows.
pub fn check_centroids(centroids: &[f32], dim: usize) -> std::result::Result<(), String> {
    let sound = |c: &[f32]| squared_norm(c) < MAX_SQUARED_NORM;
    centroids.chunks_exact(dim).position(|c| !sound(c)).map_or(Ok(()), |k| {
        Err(format!(
            "expected finite centroids with squared norms below {MAX_SQUARED_NORM:e}, got another centroid {k}"
        ))
    })
}
