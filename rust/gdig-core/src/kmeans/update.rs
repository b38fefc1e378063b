//! From the sums of a pass to the next centroids.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::partial::Pass;
use crate::rows::distances::squared_norm;
use crate::rows::{Block, Reader, RowSet};
use crate::Result;

/// Give each empty cluster one of the rows that lie farthest from their centroids, and take it from its own cluster.
/// Rows equal to one given already are passed over. Returns how many clusters were filled.
pub fn reseed(rows: RowSet, found: &mut Pass<f64>) -> Result<usize> {
    let dim = rows.source.dim();
    let empty: Vec<usize> = (0..found.counts.len()).filter(|&k| found.counts[k] == 0).collect();
    let mut empty = empty.into_iter().peekable();
    let (mut reader, mut block) = (Reader::new(rows), Block::default());
    let (mut given, mut filled) = (BTreeSet::new(), 0);
    for far in &found.far {
        let Some(&k) = empty.peek().filter(|_| far.distance > 0) else { break };
        let own = far.label as usize;
        if found.counts[own] < 2 {
            continue;
        }
        reader.read(far.position.0, far.position.0 + 1, &mut block)?;
        let x = &block.x[..dim];
        if !given.insert(x.iter().map(|x| x.to_bits()).collect::<Vec<_>>()) {
            continue;
        }
        for (j, &x) in x.iter().enumerate() {
            found.sums[own * dim + j] -= f64::from(x);
            found.sums[k * dim + j] = f64::from(x);
        }
        found.counts[own] -= 1;
        found.counts[k] = 1;
        filled += 1;
        empty.next();
    }
    Ok(filled)
}

/// Means of the clusters; one that stays empty keeps its centroid.
pub fn update(found: &Pass<f64>, centroids: &[f32], dim: usize, unit_normalize: bool) -> Vec<f32> {
    let mut updated = centroids.to_vec();
    updated.par_chunks_exact_mut(dim).zip(found.sums.par_chunks_exact(dim)).zip(&found.counts).for_each(
        |((centroid, sums), &count)| {
            if count > 0 {
                centroid.iter_mut().zip(sums).for_each(|(c, sum)| *c = (sum / count as f64) as f32);
                if unit_normalize {
                    normalize(centroid);
                }
            }
        },
    );
    updated
}

pub fn normalize(x: &mut [f32]) {
    let norm = squared_norm(x).sqrt();
    if norm > 0.0 && norm.is_finite() {
        x.iter_mut().for_each(|x| *x /= norm);
    }
}
