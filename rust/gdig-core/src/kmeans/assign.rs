//! The nearest centroid of each row: distances and argmin in one, the [n, K] block is never written.
//!
//! Nearest means the least |c|^2/2 - x.c (|x|^2 does not matter), ties go to the lower centroid. Each x.c is one chain
//! of fused multiply-adds over the columns in order, whatever the kernel: so all kernels give the same bits, and a
//! row's answer depends on neither its place in the block nor its neighbours.

use crate::{Error, Result};

/// Centroids in a panel: the lanes of the inner loop.
const LANES: usize = 32;
/// Rows in a block are chosen so that the block takes about this many bytes, half of a common second-level cache.
const BLOCK_BYTES: usize = 512 << 10;

/// An implementation. All but `Scalar` are one source, compiled for different instruction sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The oracle: three plain loops.
    Scalar,
    /// For any processor; fast where the baseline has fused multiply-add (arm64).
    Portable,
    Avx2,
    Avx512,
}

impl Kernel {
    pub const ALL: [(Kernel, &'static str); 4] = [
        (Kernel::Scalar, "scalar"),
        (Kernel::Portable, "portable"),
        (Kernel::Avx2, "avx2"),
        (Kernel::Avx512, "avx512"),
    ];

    pub fn is_available(self) -> bool {
        match self {
            Kernel::Scalar | Kernel::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Avx2 | Kernel::Avx512 => false,
        }
    }

    /// The fastest one that this machine has.
    pub fn detect() -> Kernel {
        let [.., fastest] = Kernel::ALL.map(|(kernel, _)| kernel);
        [fastest, Kernel::Avx2].into_iter().find(|kernel| kernel.is_available()).unwrap_or(Kernel::Portable)
    }

    pub fn name(self) -> &'static str {
        Kernel::ALL.iter().find(|entry| entry.0 == self).expect("every kernel is in the list").1
    }

    /// The kernel of that name, if this machine has it; the fastest for `None`.
    pub fn choose(name: Option<&str>) -> Result<Kernel> {
        let Some(name) = name else { return Ok(Kernel::detect()) };
        let available = || Kernel::ALL.iter().filter(|(kernel, _)| kernel.is_available());
        available().find(|(_, n)| *n == name).map(|(kernel, _)| *kernel).ok_or_else(|| {
            let names: Vec<_> = available().map(|(_, n)| *n).collect();
            Error::input(format!("kernel {name:?}: this machine has {}", names.join(", ")))
        })
    }
}

/// Centroids laid out for a kernel, once an iteration.
pub struct Assigner {
    kernel: Kernel,
    dim: usize,
    n_clusters: usize,
    /// [panels, dim, LANES]; the last panel is filled up with zeros.
    panels: Vec<f32>,
    /// |c|^2/2, [panels, LANES]; infinity where the last panel is filled up, so that no row goes there.
    half_norms: Vec<f32>,
}

/// What a worker keeps between blocks.
#[derive(Default)]
pub struct Scratch {
    /// [groups, dim, rows of a group].
    groups: Vec<f32>,
    best: Vec<[f32; LANES]>,
    arg: Vec<[u32; LANES]>,
}

/// Inner products of `GROUP` rows, [dim, GROUP], and a panel of centroids, [dim, LANES]. Arrays of fixed size are what
/// lets the compiler keep all the sums in vector registers (with slices it does not: measured 30 times slower).
#[inline(always)]
fn products<const GROUP: usize>(group: &[f32], panel: &[f32]) -> [[f32; LANES]; GROUP] {
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

impl Assigner {
    /// `centroids` is [K, dim], K at least 1 and at most 2^32 - 2.
    pub fn new(kernel: Kernel, centroids: &[f32], dim: usize) -> Assigner {
        assert!(kernel.is_available(), "kernel {} is not for this machine", kernel.name());
        let n_clusters = centroids.len() / dim;
        let n_panels = n_clusters.div_ceil(LANES);
        let mut panels = vec![0f32; n_panels * dim * LANES];
        let mut half_norms = vec![f32::INFINITY; n_panels * LANES];
        for (k, c) in centroids.chunks_exact(dim).enumerate() {
            let panel = &mut panels[k / LANES * dim * LANES..][..dim * LANES];
            panel.chunks_exact_mut(LANES).zip(c).for_each(|(lanes, &c)| lanes[k % LANES] = c);
            half_norms[k] = (c.iter().map(|&c| f64::from(c) * f64::from(c)).sum::<f64>() / 2.0) as f32;
        }
        Assigner { kernel, dim, n_clusters, panels, half_norms }
    }

    /// Rows to hand over at once: the answer does not depend on it, the speed does.
    pub fn block_rows(&self) -> usize {
        (BLOCK_BYTES / (4 * self.dim)).clamp(32, 512)
    }

    /// Write the nearest centroid of each row of `x` [n, dim] to `labels` [n].
    pub fn assign(&self, x: &[f32], labels: &mut [u32], scratch: &mut Scratch) {
        assert_eq!(x.len(), labels.len() * self.dim);
        match self.kernel {
            Kernel::Scalar => self.scalar(x, labels),
            Kernel::Portable => self.blocked::<4>(x, labels, scratch),
            // SAFETY: `new` has asserted that the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => unsafe { self.blocked_avx2(x, labels, scratch) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => unsafe { self.blocked_avx512(x, labels, scratch) },
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Avx2 | Kernel::Avx512 => unreachable!("never available here"),
        }
    }

    fn scalar(&self, x: &[f32], labels: &mut [u32]) {
        for (x, label) in x.chunks_exact(self.dim).zip(labels) {
            let mut best = f32::INFINITY;
            *label = 0;
            for k in 0..self.n_clusters {
                let panel = &self.panels[k / LANES * self.dim * LANES..];
                let dot = x.iter().enumerate().fold(0f32, |dot, (j, x)| x.mul_add(panel[j * LANES + k % LANES], dot));
                let score = self.half_norms[k] - dot;
                if score < best {
                    (best, *label) = (score, k as u32);
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn blocked_avx2(&self, x: &[f32], labels: &mut [u32], scratch: &mut Scratch) {
        self.blocked::<3>(x, labels, scratch)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn blocked_avx512(&self, x: &[f32], labels: &mut [u32], scratch: &mut Scratch) {
        self.blocked::<12>(x, labels, scratch)
    }

    /// `GROUP` rows by `LANES` centroids at a time, their products in registers. Inlined into the functions above, and
    /// so compiled for their instruction sets.
    #[inline(always)]
    fn blocked<const GROUP: usize>(&self, x: &[f32], labels: &mut [u32], scratch: &mut Scratch) {
        let (dim, n) = (self.dim, labels.len());
        let n_groups = n.div_ceil(GROUP);
        scratch.groups.clear();
        scratch.groups.resize(n_groups * dim * GROUP, 0.0);
        for (i, x) in x.chunks_exact(dim).enumerate() {
            let group = &mut scratch.groups[i / GROUP * dim * GROUP..][..dim * GROUP];
            group.chunks_exact_mut(GROUP).zip(x).for_each(|(column, &x)| column[i % GROUP] = x);
        }
        scratch.best.clear();
        scratch.best.resize(n_groups * GROUP, [f32::INFINITY; LANES]);
        scratch.arg.clear();
        scratch.arg.resize(n_groups * GROUP, [0; LANES]);

        // A panel stays in the second-level cache while all groups of the block pass by.
        let panels = self.panels.chunks_exact(dim * LANES).zip(self.half_norms.chunks_exact(LANES));
        for (number, (panel, half_norms)) in panels.enumerate() {
            let half_norms: &[f32; LANES] = half_norms.try_into().expect("LANES of them");
            let groups = scratch.groups.chunks_exact(dim * GROUP);
            let best = scratch.best.chunks_exact_mut(GROUP);
            for ((group, best), arg) in groups.zip(best).zip(scratch.arg.chunks_exact_mut(GROUP)) {
                let dots = products::<GROUP>(group, panel);
                for r in 0..GROUP {
                    for lane in 0..LANES {
                        let score = half_norms[lane] - dots[r][lane];
                        // Panels come in ascending order: of equal scores in a lane the first stays.
                        if score < best[r][lane] {
                            best[r][lane] = score;
                            arg[r][lane] = (number * LANES + lane) as u32;
                        }
                    }
                }
            }
        }
        for ((label, best), arg) in labels.iter_mut().zip(&scratch.best).zip(&scratch.arg) {
            let lanes = best.iter().zip(arg).map(|(&score, &k)| (score, k));
            let lower = |a: (f32, u32), b: (f32, u32)| if b.0 < a.0 || (b.0 == a.0 && b.1 < a.1) { b } else { a };
            *label = lanes.reduce(lower).expect("LANES is not zero").1;
        }
    }
}
