//! The float32 search. One source is compiled for several instruction sets.

use super::middle::middle;
use super::{half_norms, shifted, Nearest, Scratch};
use crate::convert::Rows;

/// A block has so many rows that it takes about this many bytes, half of a common second-level cache.
const BLOCK_BYTES: usize = 512 << 10;

/// Centroids in float32 panels of `LANES`, the lanes of the inner loop.
pub struct Panels<const LANES: usize> {
    pub dim: usize,
    /// [panels, dim, LANES]; the last panel is filled up with zeros.
    pub panels: Vec<f32>,
}

/// Centroids less their middle, in panels.
pub struct Centred<const LANES: usize> {
    panels: Panels<LANES>,
    /// What rows lose too, [dim].
    middle: Vec<f32>,
    /// |c|^2/2, [panels, LANES]; infinity where the last panel is filled up, so that no row goes there.
    half_norms: Vec<f32>,
}

#[derive(Default)]
pub struct F32Scratch {
    /// The block in float32, [n, dim].
    x: Vec<f32>,
    /// [groups, dim, rows of a group].
    groups: Vec<f32>,
    /// [n, LANES]: of each row and lane the best score, and the number of its centroid.
    best: Vec<f32>,
    arg: Vec<u32>,
}

/// Inner products of `GROUP` rows, [dim, GROUP], and a panel of centroids, [dim, LANES]. Arrays of fixed size let the
/// compiler keep all sums in vector registers. Slices do not: they measured 30 times slower.
#[inline(always)]
pub fn products<const GROUP: usize, const LANES: usize>(group: &[f32], panel: &[f32]) -> [[f32; LANES]; GROUP] {
    let mut dots = [[0f32; LANES]; GROUP];
    for (x, c) in group.chunks_exact(GROUP).zip(panel.chunks_exact(LANES)) {
        let x: &[f32; GROUP] = x.try_into().expect("GROUP of them");
        let c: &[f32; LANES] = c.try_into().expect("LANES of them");
        for r in 0..GROUP {
            for lane in 0..LANES {
                dots[r][lane] = x[r].mul_add(c[lane], dots[r][lane]);
            }
        }
    }
    dots
}

impl<const LANES: usize> Panels<LANES> {
    pub fn new(centroids: &[f32], dim: usize) -> Panels<LANES> {
        let n_panels = (centroids.len() / dim).div_ceil(LANES);
        let mut panels = vec![0f32; n_panels * dim * LANES];
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

    /// Take `GROUP` rows by `LANES` centroids at a time, with their products in registers. The compiler inlines this
    /// into the functions of an instruction set, and so compiles it for that set.
    #[inline(always)]
    pub fn assign<const GROUP: usize>(&self, rows: Rows, labels: &mut [u32], scratch: &mut F32Scratch) {
        let (dim, n) = (self.panels.dim, labels.len());
        scratch.x.resize(n * dim, 0.0);
        rows.decode(&mut scratch.x);
        let n_groups = n.div_ceil(GROUP);
        scratch.groups.clear();
        scratch.groups.resize(n_groups * dim * GROUP, 0.0);
        for (i, x) in scratch.x.chunks_exact(dim).enumerate() {
            let group = &mut scratch.groups[i / GROUP * dim * GROUP..][..dim * GROUP];
            let columns = group.chunks_exact_mut(GROUP);
            columns.zip(x.iter().zip(&self.middle)).for_each(|(column, (x, m))| column[i % GROUP] = x - m);
        }
        scratch.best.clear();
        scratch.best.resize(n_groups * GROUP * LANES, f32::INFINITY);
        scratch.arg.clear();
        scratch.arg.resize(n_groups * GROUP * LANES, 0);

        // A panel stays in the second-level cache while all groups of the block pass by.
        let panels = self.panels.panels.chunks_exact(dim * LANES).zip(self.half_norms.chunks_exact(LANES));
        for (number, (panel, half_norms)) in panels.enumerate() {
            let half_norms: &[f32; LANES] = half_norms.try_into().expect("LANES of them");
            let groups = scratch.groups.chunks_exact(dim * GROUP);
            let best = scratch.best.chunks_exact_mut(GROUP * LANES);
            for ((group, best), arg) in groups.zip(best).zip(scratch.arg.chunks_exact_mut(GROUP * LANES)) {
                let dots = products::<GROUP, LANES>(group, panel);
                let rows = best.chunks_exact_mut(LANES).zip(arg.chunks_exact_mut(LANES));
                for (dots, (best, arg)) in dots.iter().zip(rows) {
                    let best: &mut [f32; LANES] = best.try_into().expect("LANES of them");
                    let arg: &mut [u32; LANES] = arg.try_into().expect("LANES of them");
                    for lane in 0..LANES {
                        let score = half_norms[lane] - dots[lane];
                        // Panels come in ascending order: of equal scores in a lane the first stays.
                        if score < best[lane] {
                            best[lane] = score;
                            arg[lane] = (number * LANES + lane) as u32;
                        }
                    }
                }
            }
        }
        let rows = scratch.best.chunks_exact(LANES).zip(scratch.arg.chunks_exact(LANES));
        for (label, (best, arg)) in labels.iter_mut().zip(rows) {
            let lanes = best.iter().zip(arg).map(|(&score, &k)| (score, k));
            let lower = |a: (f32, u32), b: (f32, u32)| if b.0 < a.0 || (b.0 == a.0 && b.1 < a.1) { b } else { a };
            *label = lanes.reduce(lower).expect("LANES is not zero").1;
        }
    }
}

/// The search as the baseline instruction set has it.
pub struct Portable(Centred<32>);

impl Portable {
    pub fn new(centroids: &[f32], dim: usize) -> Portable {
        Portable(Centred::new(centroids, dim))
    }
}

impl Nearest for Portable {
    fn block_rows(&self) -> usize {
        self.0.block_rows()
    }

    fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        self.0.assign::<4>(rows, labels, &mut scratch.float32);
    }
}
