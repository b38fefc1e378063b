//! k-means++ (Arthur and Vassilvitskii, 2007) on a sample that fits in memory.

use rayon::prelude::*;

use super::options::Options;
use super::sample::sample;
use crate::hash::{derive, row_hash, unit};
use crate::interrupt::Supervisor;
use crate::rows::distances::squared_distance;
use crate::rows::gather::gather;
use crate::rows::RowSet;
use crate::Result;

/// Rows of the sample for each centroid, unless they take more than `SAMPLE_BYTES`.
const ROWS_PER_CENTROID: usize = 16;
const LEAST_ROWS: usize = 4096;
const SAMPLE_BYTES: usize = 128 << 20;
/// Rows whose distances are summed together. The number is fixed, and so is the order of the additions.
const CHUNK: usize = 1024;

/// K centroids [K, dim]. Each is a row of the set, drawn with probability proportional to its squared distance from the
/// centroids before it, times its weight.
pub fn plus_plus(rows: RowSet, k: usize, options: &Options, supervisor: &Supervisor) -> Result<Vec<f32>> {
    let (dim, random_state) = (rows.source.dim(), options.random_state);
    let wanted = (ROWS_PER_CENTROID * k).max(LEAST_ROWS).min(SAMPLE_BYTES / (4 * dim)).max(2 * k);
    let list = sample(rows, wanted, derive(random_state, "k-means++ sample"), supervisor)?;
    let n = list.len();
    let x = gather(RowSet { list: Some(&list), ..rows }, supervisor)?;
    let random_seed_of_draws = derive(random_state, "k-means++ draws");
    let weights = options.weights.as_ref().map(|all| list.iter().map(|&row| all[row as usize]).collect::<Vec<_>>());

    let mut distances = vec![f32::INFINITY; n];
    let mut taken = vec![false; n];
    let mut centroids = Vec::with_capacity(k * dim);
    let first = unit(row_hash(random_seed_of_draws, 0));
    let mut next = match &weights {
        None => ((first * n as f64) as usize).min(n - 1),
        Some(weights) => draw_weighted(&vec![1.0; n], weights, first).expect("rows of weight 0 are not in the set"),
    };
    for step in 1..=k {
        supervisor.check()?;
        taken[next] = true;
        let newest = &x[next * dim..(next + 1) * dim];
        centroids.extend_from_slice(newest);
        if step == k {
            break;
        }
        let sums: Vec<f64> = distances
            .par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK * dim))
            .map(|(distances, x)| {
                let nearer = |(d, x): (&mut f32, &[f32])| {
                    *d = d.min(squared_distance(x, newest));
                    f64::from(*d)
                };
                distances.iter_mut().zip(x.chunks_exact(dim)).map(nearer).sum()
            })
            .collect();
        let share = unit(row_hash(random_seed_of_draws, step as u64));
        let drawn = match &weights {
            None => draw(&distances, &sums, share),
            Some(weights) => draw_weighted(&distances, weights, share),
        };
        next = drawn
            // All rows lie on a centroid. Take the first row that is none yet; there is one, because K is at most n.
            .unwrap_or_else(|| taken.iter().position(|taken| !taken).expect("fewer centroids than rows"));
    }
    Ok(centroids)
}

/// `draw` with each distance times a weight.
fn draw_weighted(distances: &[f32], weights: &[f32], u: f64) -> Option<usize> {
    let products: Vec<f32> = distances.iter().zip(weights).map(|(d, w)| d * w).collect();
    let sums: Vec<f64> = products.chunks(CHUNK).map(|chunk| chunk.iter().map(|&d| f64::from(d)).sum()).collect();
    draw(&products, &sums, u)
}

/// The row at share `u` of the summed distances. `None` when all distances are zero.
fn draw(distances: &[f32], sums: &[f64], u: f64) -> Option<usize> {
    let mut target = u * sums.iter().sum::<f64>();
    // Rounding may carry the target beyond the end. Then the last row with a distance is drawn.
    let mut last = None;
    for (number, (chunk, sum)) in distances.chunks(CHUNK).zip(sums).enumerate() {
        let apart = chunk.iter().enumerate().filter(|(_, &d)| d > 0.0);
        if target >= *sum {
            target -= sum;
            last = apart.map(|(i, _)| number * CHUNK + i).next_back().or(last);
            continue;
        }
        for (i, &d) in apart {
            last = Some(number * CHUNK + i);
            if target < f64::from(d) {
                break;
            }
            target -= f64::from(d);
        }
        break;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_distances() {
        let mut distances = vec![0f32; 3 * CHUNK];
        (distances[5], distances[CHUNK + 1], distances[3 * CHUNK - 1]) = (1.0, 2.0, 1.0);
        let sums: Vec<f64> = distances.chunks(CHUNK).map(|c| c.iter().map(|&d| f64::from(d)).sum()).collect();
        let drawn: Vec<_> = [0.0, 0.24, 0.26, 0.74, 0.76, 1.0].map(|u| draw(&distances, &sums, u).unwrap()).into();
        assert_eq!(drawn, [5, 5, CHUNK + 1, CHUNK + 1, 3 * CHUNK - 1, 3 * CHUNK - 1]);
        assert_eq!(draw(&[0.0; 8], &[0.0], 0.5), None);
    }
}
