//! What one search tells the next, when the centroids have moved a little: the iterations of k-means.
//!
//! Of each row the search keeps its centroid, and for each panel of centroids a lower bound L of their distances from
//! the row. When the centroids of a panel have moved by at most m, none of them is nearer than L - m (Hamerly 2010;
//! Ding et al. 2015, "Yinyang K-means", with panels for groups). If the row's former centroid is nearer than that, the
//! panel needs no search. What is skipped cannot be the nearest by the kernel's own arithmetic, so the labels are those
//! of the whole search, bit for bit.

pub mod bounds;
pub mod rounding;

use std::hint::black_box;

use bounds::{squared_norm, up, Row, SLACK};
use rounding::Rounding;

use super::best::{least_of, Bests};
use super::generic::{products_of_rows, Centred, F32Scratch};
use super::multiply_add::{Fused, MultiplyAdd};
use super::shifted;
use crate::convert::Rows;

/// A row that no search has seen.
pub(super) const NONE: u32 = u32::MAX;

/// What is known of the rows of a chunk, block by block.
#[derive(Default)]
pub struct Known {
    block_rows: usize,
    n_panels: usize,
    /// [rows]
    labels: Vec<u32>,
    /// [blocks, panels, rows of a block]
    lower: Vec<f32>,
}

/// What is known of the rows of a block, which are the same in every search.
pub struct KnownBlock<'a> {
    /// The centroid of each row at least, `NONE` before the first search.
    pub(super) labels: &'a mut [u32],
    /// Lower bounds of distances, [panels, labels.len()].
    pub(super) lower: &'a mut [f32],
}

impl Known {
    /// The bytes for so many rows.
    pub fn n_bytes(rows: usize, n_panels: usize) -> usize {
        rows.saturating_mul(4 + 4 * n_panels)
    }

    /// Nothing is known of these rows yet, unless something was.
    pub fn prepare(&mut self, rows: usize, block_rows: usize, n_panels: usize) {
        if (self.labels.len(), self.block_rows, self.n_panels) != (rows, block_rows, n_panels) {
            let lower = vec![0.0; rows * n_panels];
            *self = Known { block_rows, n_panels, labels: vec![NONE; rows], lower };
        }
    }

    pub fn block(&mut self, number: usize) -> KnownBlock<'_> {
        let first = number * self.block_rows;
        let n = self.block_rows.min(self.labels.len() - first);
        let lower = &mut self.lower[first * self.n_panels..][..n * self.n_panels];
        KnownBlock { labels: &mut self.labels[first..][..n], lower }
    }
}

/// The way of the centroids since the search before.
pub struct Moves {
    /// The centroids less their middle, [K, dim].
    centred: Vec<f32>,
    /// An upper bound of their lengths.
    longest: f64,
    /// Upper bounds of how far the centroids of each panel have moved, [panels].
    pub(super) moved: Vec<f32>,
    /// Of an int8 search.
    pub(super) rounding: Option<Rounding>,
}

/// Memory of a worker.
#[derive(Default)]
pub struct KnownScratch {
    pub rows: Vec<Row>,
    pub(super) thresholds: Vec<f32>,
    /// The rows of a block that a panel has to be searched for.
    pub(super) chosen: Vec<u32>,
    /// Panels searched, times rows.
    #[cfg(test)]
    pub(super) searched: usize,
}

impl Moves {
    /// Of `centroids`, less `middle` where the kernel compares them, since they were `before`, in panels of `lanes`.
    pub fn new(centroids: &[f32], before: Option<&[f32]>, middle: &[f32], lanes: usize) -> Moves {
        let centred = shifted(centroids, middle);
        let longest = centred.chunks_exact(middle.len()).map(squared_norm).fold(0.0, f64::max).sqrt() * (1.0 + SLACK);
        Moves { moved: moved(centroids, before, middle.len(), lanes), centred, longest, rounding: None }
    }

    /// The same for a search that rounds the centroids of `dim` columns to int8.
    pub fn rounded(centroids: &[f32], before: Option<&[f32]>, dim: usize, lanes: usize, rounding: Rounding) -> Moves {
        let moved = moved(centroids, before, dim, lanes);
        Moves { moved, centred: Vec::new(), longest: 0.0, rounding: Some(rounding) }
    }

    /// An upper bound of the lengths of the centroids less their middle.
    pub fn longest(&self) -> f64 {
        self.longest
    }
}

/// Upper bounds of how far the centroids of each panel of `lanes` have moved.
fn moved(centroids: &[f32], before: Option<&[f32]>, dim: usize, lanes: usize) -> Vec<f32> {
    let distance =
        |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
    match before {
        // Nothing is known, so nothing is skipped.
        None => vec![f32::INFINITY; (centroids.len() / dim).div_ceil(lanes)],
        Some(before) => {
            let panels = centroids.chunks(lanes * dim).zip(before.chunks(lanes * dim));
            let most = |(a, b): (&[f32], &[f32])| {
                a.chunks_exact(dim).zip(b.chunks_exact(dim)).map(distance).fold(0.0, f64::max)
            };
            panels.map(|panels| up(most(panels).sqrt() * (1.0 + SLACK))).collect()
        }
    }
}

/// A block of rows and the panels of a kernel.
pub struct Search<'a> {
    /// The rows less the middle, [n, dim].
    pub x: &'a [f32],
    /// |c|^2/2, [panels, LANES]; infinity where the last panel is filled up.
    pub half_norms: &'a [f32],
    pub moves: &'a Moves,
    pub known: KnownBlock<'a>,
    pub bests: &'a mut Bests,
}

impl Search<'_> {
    /// Search with what is known. `scratch.rows` holds the bounds of the rows. `products` gives the inner products of
    /// rows of the block and a panel. The compiler inlines this into the functions of an instruction set.
    #[inline(always)]
    pub fn assign<const GROUP: usize, const LANES: usize>(
        self,
        labels: &mut [u32],
        scratch: &mut KnownScratch,
        products: impl Fn(&[u32; GROUP], usize) -> [[f32; LANES]; GROUP],
    ) {
        let Search { x, half_norms, moves, known, bests } = self;
        let (n, stride) = (labels.len(), known.labels.len());
        bests.reset::<LANES>(n);
        scratch.thresholds.clear();
        scratch.thresholds.extend(scratch.rows.iter().zip(&*known.labels).enumerate().map(|(i, (row, &label))| {
            if label == NONE {
                return f32::INFINITY;
            }
            let dim = x.len() / n;
            let c = &moves.centred[label as usize * dim..][..dim];
            row.threshold(half_norms[label as usize] - dot(&x[i * dim..][..dim], c))
        }));
        scratch.chosen.resize(n.next_multiple_of(GROUP), 0);
        for (number, half_norms) in half_norms.chunks_exact(LANES).enumerate() {
            let half_norms: &[f32; LANES] = half_norms.try_into().expect("LANES of them");
            let lower = &mut known.lower[number * stride..][..n];
            let n_chosen = choose(lower, moves.moved[number], &scratch.thresholds, &mut scratch.chosen);
            #[cfg(test)]
            {
                scratch.searched += n_chosen;
            }
            let Some(&filler) = scratch.chosen[..n_chosen].last() else { continue };
            // The last group is filled up with a row of it, which changes nothing.
            let groups = n_chosen.next_multiple_of(GROUP);
            scratch.chosen[n_chosen..groups].fill(filler);
            for group in scratch.chosen[..groups].chunks_exact(GROUP) {
                let group: &[u32; GROUP] = group.try_into().expect("GROUP of them");
                // Without the black box the compiler stores all sums in each step: half the speed, measured.
                let dots = black_box(products(group, number));
                for (&i, dots) in group.iter().zip(&dots) {
                    let mut scores = *half_norms;
                    scores.iter_mut().zip(dots).for_each(|(score, dot)| *score -= dot);
                    bests.offer(i as usize, number * LANES, &scores);
                    lower[i as usize] = scratch.rows[i as usize].lower(least_of(scores));
                }
            }
        }
        bests.labels::<LANES>(labels);
        known.labels[..n].copy_from_slice(labels);
    }
}

impl<const LANES: usize> Centred<LANES> {
    pub fn n_panels(&self) -> usize {
        self.half_norms.len() / LANES
    }

    /// The search with what is known. The compiler inlines this into the functions of an instruction set.
    #[inline(always)]
    pub fn assign_known<const GROUP: usize>(
        &self,
        rows: Rows,
        moves: &Moves,
        known: KnownBlock,
        labels: &mut [u32],
        float32: &mut F32Scratch,
        scratch: &mut KnownScratch,
    ) {
        let dim = self.panels.dim;
        self.load_rows(rows, float32);
        let F32Scratch { x, bests, .. } = float32;
        scratch.rows.clear();
        scratch.rows.extend(x.chunks_exact(dim).map(|x| Row::new(x, moves.longest)));
        let search = Search { x, half_norms: &self.half_norms, moves, known, bests };
        search.assign::<GROUP, LANES>(labels, scratch, |group, number| {
            let panel = &self.panels.panels[number * dim * LANES..][..dim * LANES];
            products_of_rows::<GROUP, LANES>(group.map(|i| &x[i as usize * dim..][..dim]), panel)
        });
    }
}

/// The rows whose panel has to be searched, at the start of `chosen`; how many. The bounds of the others sink.
#[inline(always)]
pub(super) fn choose(lower: &mut [f32], moved: f32, thresholds: &[f32], chosen: &mut [u32]) -> usize {
    let mut n = 0;
    for (i, (lower, threshold)) in lower.iter_mut().zip(thresholds).enumerate() {
        // The factor takes more than the roundings of the subtraction and the product have added.
        let now = (*lower - moved) * (1.0 - f32::EPSILON);
        let far = now > *threshold;
        *lower = if far { now } else { *lower };
        chosen[n] = i as u32;
        n += usize::from(!far);
    }
    n
}

/// x.c in some order.
#[inline(always)]
fn dot(x: &[f32], c: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut lanes = [0f32; LANES];
    let (x, c) = (x.chunks_exact(LANES), c.chunks_exact(LANES));
    let tail: f32 = x.remainder().iter().zip(c.remainder()).map(|(x, c)| x * c).sum();
    for (x, c) in x.zip(c) {
        for lane in 0..LANES {
            lanes[lane] = Fused::of(x[lane], c[lane], lanes[lane]);
        }
    }
    lanes.iter().fold(tail, |sum, lane| sum + lane)
}

#[cfg(test)]
mod tests;
