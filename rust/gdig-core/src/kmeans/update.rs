//! The next centroids, from the sums of a pass.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::partial::Pass;
use crate::rows::distances::squared_norm;
use crate::rows::{Block, Reader, RowSet};
use crate::Result;

/// Move to each empty cluster one of the rows that lie farthest from their centroids. A row equal to an earlier one is
/// passed over. Returns the number of filled clusters.
pub fn reseed(rows: RowSet, offset: &[f32], weights: Option<&[f32]>, pass: &mut Pass<f64>) -> Result<usize> {
    let dim = rows.source.dim();
    let empty: Vec<usize> = (0..pass.counts.len()).filter(|&k| pass.counts[k] == 0).collect();
    let mut empty = empty.into_iter().peekable();
    let (mut reader, mut block) = (Reader::new(rows), Block::default());
    let (mut given, mut filled) = (BTreeSet::new(), 0);
    for far in &pass.far {
        let Some(&k) = empty.peek().filter(|_| far.distance > 0) else { break };
        let own = far.label as usize;
        if pass.counts[own] < 2 {
            continue;
        }
        reader.read(far.position.0, far.position.0 + 1, &mut block)?;
        let x = &block.x[..dim];
        if !given.insert(x.iter().map(|x| x.to_bits()).collect::<Vec<_>>()) {
            continue;
        }
        let weight = weights.map_or(1.0, |weights| weights[rows.row(far.position.0)]);
        for (j, (&x, &offset)) in x.iter().zip(offset).enumerate() {
            // As the tally has added it, and without its rounding.
            pass.sums[own * dim + j] -= f64::from((x - offset) * weight);
            pass.sums[k * dim + j] = (f64::from(x) - f64::from(offset)) * f64::from(weight);
        }
        pass.counts[own] -= 1;
        pass.counts[k] = 1;
        if weights.is_some() {
            pass.weights[own] -= f64::from(weight);
            pass.weights[k] = f64::from(weight);
        }
        filled += 1;
        empty.next();
    }
    Ok(filled)
}

/// The means of the clusters. A cluster that stays empty keeps its centroid.
pub fn update(pass: &Pass<f64>, centroids: &[f32], offset: &[f32], unit_normalize: bool) -> Vec<f32> {
    let dim = offset.len();
    let mut updated = centroids.to_vec();
    updated.par_chunks_exact_mut(dim).zip(pass.sums.par_chunks_exact(dim)).enumerate().for_each(
        |(k, (centroid, sums))| {
            if pass.counts[k] > 0 {
                let weight = pass.weight(k);
                let columns = centroid.iter_mut().zip(sums).zip(offset);
                columns.for_each(|((c, sum), &offset)| *c = (f64::from(offset) + sum / weight) as f32);
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
