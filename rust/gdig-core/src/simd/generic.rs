//! The float32 search. One source is compiled for several instruction sets.

use std::hint::black_box;

use super::aligned::Aligned;
use super::best::Bests;
use super::middle::middle;
use super::multiply_add::{Fused, MultiplyAdd};
use super::{half_norms, shifted};
use crate::convert::Rows;

/// A block has so many rows that it takes about this many bytes, half of a common second-level cache.
pub const BLOCK_BYTES: usize = 512 << 10;

/// Centroids in float32 panels of `LANES`, the lanes of the inner loop.
pub struct Panels<const LANES: usize> {
    pub dim: usize,
    /// [panels, dim, LANES]; the last panel is filled up with zeros.
    pub panels: Aligned<f32>,
}

/// Centroids less their middle, in panels.
pub struct Centred<const LANES: usize> {
    pub panels: Panels<LANES>,
    /// What rows lose too, [dim].
    pub middle: Vec<f32>,
    /// |c|^2/2, [panels, LANES]; infinity where the last panel is filled up, so that no row goes there.
    pub half_norms: Vec<f32>,
}

#[derive(Default)]
pub struct F32Scratch {
    /// The block in float32 less the middle, [n, dim].
    pub x: Vec<f32>,
    /// The same, [groups, dim, rows of a group], zeros behind the last row.
    pub groups: Vec<f32>,
    pub bests: Bests,
}

/// Inner products of `GROUP` rows, [dim, GROUP], and a panel of centroids, [dim, LANES]. Arrays of fixed size let the
/// compiler keep all sums in vector registers. Slices do not: they measured 30 times slower.
#[inline(always)]
pub fn products<M: MultiplyAdd, const GROUP: usize, const LANES: usize>(
    group: &[f32],
    panel: &[f32],
) -> [[f32; LANES]; GROUP] {
    let mut dots = [[0f32; LANES]; GROUP];
    for (x, c) in group.chunks_exact(GROUP).zip(panel.chunks_exact(LANES)) {
        let x: &[f32; GROUP] = x.try_into().expect("GROUP of them");
        let c: &[f32; LANES] = c.try_into().expect("LANES of them");
        for r in 0..GROUP {
            for lane in 0..LANES {
                dots[r][lane] = M::of(x[r], c[lane], dots[r][lane]);
            }
        }
    }
    dots
}

/// `products` of rows that lie apart.
#[inline(always)]
pub fn products_of_rows<const GROUP: usize, const LANES: usize>(
    rows: [&[f32]; GROUP],
    panel: &[f32],
) -> [[f32; LANES]; GROUP] {
    // The compiler has to see that j is in bounds: checks measured half the speed.
    let dim = panel.len() / LANES;
    let rows = rows.map(|row| &row[..dim]);
    let mut dots = [[0f32; LANES]; GROUP];
    for (j, c) in (0..dim).zip(panel.chunks_exact(LANES)) {
        let c: &[f32; LANES] = c.try_into().expect("LANES of them");
        for r in 0..GROUP {
            let x = rows[r][j];
            for lane in 0..LANES {
                dots[r][lane] = Fused::of(x, c[lane], dots[r][lane]);
            }
        }
    }
    dots
}

impl<const LANES: usize> Panels<LANES> {
    pub fn new(centroids: &[f32], dim: usize) -> Panels<LANES> {
        let n_panels = (centroids.len() / dim).div_ceil(LANES);
        let mut panels = Aligned::<f32>::zeros(n_panels * dim * LANES);
        for (k, c) in centroids.chunks_exact(dim).enumerate() {
            let panel = &mut panels[k / LANES * dim * LANES..][..dim * LANES];
            panel.chunks_exact_mut(LANES).zip(c).for_each(|(lanes, &c)| lanes[k % LANES] = c);
        }
        Panels { dim, panels }
    }
}

impl<const LANES: usize> Centred<LANES> {
    pub fn new(centroids: &[f32], dim: usize) -> Centred<LANES> {
        let middle = middle(centroids, dim);
        let centroids = shifted(centroids, &middle);
        let panels = Panels::new(&centroids, dim);
        let mut half_norms: Vec<f32> = half_norms(&centroids, dim).collect();
        half_norms.resize(panels.panels.len() / dim, f32::INFINITY);
        Centred { panels, middle, half_norms }
    }

    pub fn block_rows(&self) -> usize {
        (BLOCK_BYTES / (4 * self.panels.dim)).clamp(32, 512)
    }

    /// Convert a block of rows.
    #[inline(always)]
    pub fn load_rows(&self, rows: Rows, scratch: &mut F32Scratch) {
        scratch.x.resize(rows.len() * self.panels.dim, 0.0);
        rows.decode(&mut scratch.x);
        for x in scratch.x.chunks_exact_mut(self.panels.dim) {
            x.iter_mut().zip(&self.middle).for_each(|(x, m)| *x -= m);
        }
    }

    /// Convert a block of rows, and group it by `GROUP`.
    #[inline(always)]
    pub fn load<const GROUP: usize>(&self, rows: Rows, scratch: &mut F32Scratch) {
        let dim = self.panels.dim;
        self.load_rows(rows, scratch);
        scratch.groups.clear();
        scratch.groups.resize(rows.len().div_ceil(GROUP) * dim * GROUP, 0.0);
        for (i, x) in scratch.x.chunks_exact(dim).enumerate() {
            let group = &mut scratch.groups[i / GROUP * dim * GROUP..][..dim * GROUP];
            group.chunks_exact_mut(GROUP).zip(x).for_each(|(column, x)| column[i % GROUP] = *x);
        }
    }

    /// Take `GROUP` rows by `LANES` centroids at a time, with their products in registers. The compiler inlines this
    /// into the functions of an instruction set, and so compiles it for that set.
    #[inline(always)]
    pub fn assign<const GROUP: usize>(&self, rows: Rows, labels: &mut [u32], scratch: &mut F32Scratch) {
        let (dim, n) = (self.panels.dim, labels.len());
        self.load_rows(rows, scratch);
        let F32Scratch { x, bests, .. } = scratch;
        bests.reset::<LANES>(n.next_multiple_of(GROUP));
        // A panel stays in the second-level cache while all groups of the block pass by.
        let panels = self.panels.panels.chunks_exact(dim * LANES).zip(self.half_norms.chunks_exact(LANES));
        for (number, (panel, half_norms)) in panels.enumerate() {
            let half_norms: &[f32; LANES] = half_norms.try_into().expect("LANES of them");
            for first in (0..n).step_by(GROUP) {
                // The last group is filled up with the last row.
                let group = std::array::from_fn(|r| &x[(first + r).min(n - 1) * dim..][..dim]);
                // Without the black box the compiler stores all sums in each step: half the speed, measured.
                let dots = black_box(products_of_rows::<GROUP, LANES>(group, panel));
                for (r, dots) in dots.iter().enumerate() {
                    let mut scores = *half_norms;
                    scores.iter_mut().zip(dots).for_each(|(score, dot)| *score -= dot);
                    bests.offer(first + r, number * LANES, &scores);
                }
            }
        }
        bests.labels::<LANES>(labels);
    }
}
