//! Approximate cosines of a block of rows and many columns, by the kernels of `simd`. A column whose cosine reaches the
//! threshold of a row becomes its candidate.
//!
//! With u, v two rows at unit length (as float32), a float32 kernel's score, fused or rounded apart, is off from u.v by
//! at most (dim + 1) 2^-24 |u||v|, a bfloat16 one by at most |u - u'||v| + |u'||v - v'| and (dim + 3) 2^-23 |u'||v'|,
//! where u' = bf16(u): what is rounded away is measured for each row. `ROUNDINGS` columns more cover that lengths differ
//! from 1 by 2^-24, that tiles take numbers below 2^-126 for zero, and that a cosine is rounded to float32.

use super::candidates::{Candidates, Columns};
use super::sift::Sift;
use crate::simd::generic::{products, Panels};
use crate::simd::multiply_add::{Apart, Fused, MultiplyAdd};
use crate::simd::portable;
use crate::simd::Kernel;
use crate::{Dtype, Error, Result};

const ROUNDINGS: usize = 16;

/// Columns laid out for a kernel.
pub struct Scan {
    layout: Layout,
    dim: usize,
    /// The most that any column loses in bfloat16; 0 for the float32 kernels.
    lost: f64,
}

enum Layout {
    Portable(Panels<{ portable::LANES }>),
    #[cfg(target_arch = "aarch64")]
    Neon(Panels<16>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Panels<16>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Panels<32>),
    #[cfg(target_arch = "x86_64")]
    AmxBf16(super::amx::Tiled),
}

impl Scan {
    /// The kernel asked for, or the fastest. It changes the speed alone, because candidates are compared exactly.
    pub fn kernel(asked: Option<Kernel>) -> Result<Kernel> {
        let can = |kernel: Kernel| !matches!(kernel, Kernel::Scalar | Kernel::NeonBf16) && kernel.takes(Dtype::F32);
        match asked {
            None => Ok(Kernel::available().map(|k| k.0).rfind(|k| can(*k)).unwrap_or(Kernel::Portable)),
            Some(kernel) if can(kernel) && kernel.is_available() => Ok(kernel),
            Some(kernel) => {
                let names: Vec<_> = Kernel::available().filter(|k| can(k.0)).map(|k| k.1).collect();
                let what = format!("kernel {:?}: neighbours are searched with {}", kernel.name(), names.join(", "));
                Err(Error::input(what))
            }
        }
    }

    /// `x` is [columns, dim], at unit length.
    pub fn new(kernel: Kernel, x: &[f32], dim: usize) -> Scan {
        let (layout, lost) = match kernel {
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => (Layout::Neon(Panels::new(x, dim)), 0.0),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => (Layout::Avx2(Panels::new(x, dim)), 0.0),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => (Layout::Avx512(Panels::new(x, dim)), 0.0),
            #[cfg(target_arch = "x86_64")]
            Kernel::AmxBf16 => {
                let lost = x.chunks_exact(dim).map(lost_to_bf16).fold(0.0, f64::max);
                (Layout::AmxBf16(super::amx::Tiled::new(x, dim)), lost)
            }
            _ => (Layout::Portable(Panels::new(x, dim)), 0.0),
        };
        Scan { layout, dim, lost }
    }

    /// The largest difference between the score of row `x` with any column and their cosine.
    pub fn bound(&self, x: &[f32]) -> f64 {
        let sums = (self.dim + ROUNDINGS) as f64 * 2f64.powi(-23);
        match self.lost > 0.0 {
            false => sums,
            true => {
                let lost = lost_to_bf16(x);
                (lost + self.lost * (1.0 + lost)) * (1.0 + 2f64.powi(-20)) + sums
            }
        }
    }

    /// The rows of a block. A common second-level cache holds them, and columns from farther away meet many rows.
    pub fn block_rows(&self) -> usize {
        match &self.layout {
            #[cfg(target_arch = "x86_64")]
            Layout::AmxBf16(_) => ((512 << 10) / (2 * self.dim)).clamp(64, 1024) / 32 * 32,
            _ => ((256 << 10) / (4 * self.dim)).clamp(24, 192) / 12 * 12,
        }
    }

    /// Offer every column to every row of `x`, [candidates, dim].
    pub fn offer(&self, x: &[f32], columns: Columns, candidates: &mut [Candidates]) {
        let mut thresholds: Vec<f32> = candidates.iter().map(Candidates::threshold).collect();
        let mut sift = Sift { x, dim: self.dim, columns, candidates, thresholds: &mut thresholds };
        match &self.layout {
            Layout::Portable(panels) => {
                scan_panels::<Apart, { portable::GROUP }, { portable::LANES }>(panels, &mut sift)
            }
            #[cfg(target_arch = "aarch64")]
            Layout::Neon(panels) => scan_panels::<Fused, 6, 16>(panels, &mut sift),
            #[cfg(target_arch = "x86_64")]
            Layout::Avx2(panels) => {
                #[target_feature(enable = "avx2,fma")]
                fn wide(panels: &Panels<16>, sift: &mut Sift) {
                    scan_panels::<Fused, 6, 16>(panels, sift);
                }
                // SAFETY: `kernel` gives it only where the processor has the instructions.
                unsafe { wide(panels, &mut sift) }
            }
            #[cfg(target_arch = "x86_64")]
            Layout::Avx512(panels) => {
                #[target_feature(enable = "avx512f")]
                fn wide(panels: &Panels<32>, sift: &mut Sift) {
                    scan_panels::<Fused, 12, 32>(panels, sift);
                }
                // SAFETY: as above.
                unsafe { wide(panels, &mut sift) }
            }
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Layout::AmxBf16(tiled) => unsafe { tiled.scan(&mut sift) },
        }
    }
}

/// The compiler inlines this into the functions of an instruction set, and so compiles it for that set.
#[inline(always)]
fn scan_panels<M: MultiplyAdd, const GROUP: usize, const LANES: usize>(panels: &Panels<LANES>, sift: &mut Sift) {
    let (dim, n) = (sift.dim, sift.thresholds.len());
    let mut groups = vec![0f32; n.div_ceil(GROUP) * dim * GROUP];
    for (i, x) in sift.x.chunks_exact(dim).enumerate() {
        let group = &mut groups[i / GROUP * dim * GROUP..][..dim * GROUP];
        group.chunks_exact_mut(GROUP).zip(x).for_each(|(column, &x)| column[i % GROUP] = x);
    }
    for (number, panel) in panels.panels.chunks_exact(dim * LANES).enumerate() {
        for (g, group) in groups.chunks_exact(dim * GROUP).enumerate() {
            let scores = products::<M, GROUP, LANES>(group, panel);
            for (i, scores) in (g * GROUP..n).zip(&scores) {
                let threshold = sift.thresholds[i];
                if scores.iter().fold(false, |any, &score| any | (score >= threshold)) {
                    sift.take(i, number * LANES, scores);
                }
            }
        }
    }
}

/// |x - bf16(x)|.
fn lost_to_bf16(x: &[f32]) -> f64 {
    let lost = x.iter().map(|&x| {
        // To nearest, ties to even: what does not fit the upper 16 bits carries into them.
        let bits = x.to_bits();
        let rounded = f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000);
        f64::from(x - rounded).powi(2)
    });
    lost.sum::<f64>().sqrt()
}
