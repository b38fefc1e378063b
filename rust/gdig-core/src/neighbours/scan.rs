//! Approximate cosines of a block of rows and many columns, by the kernels of `simd`. A column whose cosine reaches the
//! threshold of a row becomes its candidate.
//!
//! With u, v two rows at unit length (as float32), a float32 kernel's score, fused or rounded apart, is off from u.v by
//! at most (dim + 1) 2^-24 |u||v|, a bfloat16 one by at most |u - u'||v| + |u'||v - v'| and (dim + 3) 2^-23 |u'||v'|,
//! where u' = bf16(u): what is rounded away is measured for each row. An int8 kernel has u' = t q; its sums are exact,
//! and scaling them rounds three times. `ROUNDINGS` columns more cover that, that lengths differ from 1 by 2^-24, that
//! tiles take numbers below 2^-126 for zero, and that a cosine is rounded to float32.

use super::candidates::{Candidates, Columns};
use super::int8;
use super::sift::Sift;
#[cfg(target_arch = "aarch64")]
use crate::simd::aarch64;
use crate::simd::generic::{products, Panels};
use crate::simd::multiply_add::{Apart, Fused, MultiplyAdd};
use crate::simd::portable;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86_64;
use crate::simd::Kernel;

const ROUNDINGS: usize = 16;

/// Columns laid out for a kernel.
pub struct Scan {
    layout: Layout,
    dim: usize,
    /// What the kernel's rounding takes from a row, |u - u'|.
    lost_of: fn(&[f32]) -> f64,
    /// The most that it takes from any column.
    lost: f64,
}

enum Layout {
    Portable(Panels<{ portable::LANES }>),
    #[cfg(target_arch = "aarch64")]
    Neon(Panels<16>),
    #[cfg(target_arch = "aarch64")]
    NeonBf16(aarch64::bf16::Panels<{ aarch64::bf16::LANES }>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Panels<16>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Panels<32>),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(x86_64::bf16::Panels),
    #[cfg(target_arch = "x86_64")]
    AmxBf16(super::amx::Tiled),
    Int8(int8::Layout),
}

impl Scan {
    /// `x` is [columns, dim], at unit length; the kernel is one of `Kernels`.
    pub fn new(kernel: Kernel, x: &[f32], dim: usize) -> Scan {
        let (layout, lost_of): (Layout, fn(&[f32]) -> f64) = match kernel {
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => (Layout::Neon(Panels::new(x, dim)), nothing),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => (Layout::Avx2(Panels::new(x, dim)), nothing),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => (Layout::Avx512(Panels::new(x, dim)), nothing),
            // SAFETY: `Kernels` gives it only where the processor has the instructions.
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonBf16 => (Layout::NeonBf16(unsafe { columns_in_bf16(x, dim) }), lost_to_bf16),
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bf16 => (Layout::Avx512Bf16(unsafe { x86_64::bf16::Panels::new(x, dim) }), lost_to_bf16),
            #[cfg(target_arch = "x86_64")]
            Kernel::AmxBf16 => (Layout::AmxBf16(super::amx::Tiled::new(x, dim)), lost_to_bf16),
            kernel if kernel.rounding() == "int8" => (Layout::Int8(int8::Layout::new(kernel, x, dim)), int8::lost),
            _ => (Layout::Portable(Panels::new(x, dim)), nothing),
        };
        let lost = x.chunks_exact(dim).map(lost_of).fold(0.0, f64::max);
        Scan { layout, dim, lost_of, lost }
    }

    /// The largest difference between the score of row `x` with any column and their cosine.
    pub fn bound(&self, x: &[f32]) -> f64 {
        let lost = (self.lost_of)(x);
        let sums = (self.dim + ROUNDINGS) as f64 * 2f64.powi(-23);
        (lost + self.lost * (1.0 + lost)) * (1.0 + 2f64.powi(-20)) + sums
    }

    /// The rows of a block. A common second-level cache holds them, and columns from farther away meet many rows.
    pub fn block_rows(&self) -> usize {
        match &self.layout {
            // Groups of 6 and of 12.
            Layout::Int8(_) => ((256 << 10) / self.dim).clamp(24, 384) / 12 * 12,
            #[cfg(target_arch = "aarch64")]
            Layout::NeonBf16(_) => ((256 << 10) / (2 * self.dim)).clamp(24, 384) / 12 * 12,
            #[cfg(target_arch = "x86_64")]
            Layout::Avx512Bf16(_) => ((256 << 10) / (2 * self.dim)).clamp(24, 384) / 12 * 12,
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
                // SAFETY: `Kernels` gives it only where the processor has the instructions.
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
            #[cfg(target_arch = "aarch64")]
            Layout::NeonBf16(panels) => {
                #[target_feature(enable = "bf16")]
                unsafe fn wide(panels: &aarch64::bf16::Panels<{ aarch64::bf16::LANES }>, sift: &mut Sift) {
                    let mut rows = aarch64::bf16::Panels::default();
                    rows.load(sift.x, &vec![0.0; sift.dim]);
                    rows.each(panels, |i, panel, scores| look(sift, i, panel, scores));
                }
                // SAFETY: as above.
                unsafe { wide(panels, &mut sift) }
            }
            #[cfg(target_arch = "x86_64")]
            Layout::Avx512Bf16(panels) => {
                #[target_feature(enable = "avx512f,avx512bf16")]
                unsafe fn wide(panels: &x86_64::bf16::Panels, sift: &mut Sift) {
                    let mut rows = x86_64::bf16::RowLines::default();
                    rows.load(sift.x, sift.dim);
                    panels.each(&rows, sift.thresholds.len(), |i, panel, scores| look(sift, i, panel, scores));
                }
                // SAFETY: as above.
                unsafe { wide(panels, &mut sift) }
            }
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Layout::AmxBf16(tiled) => unsafe { tiled.scan(&mut sift) },
            Layout::Int8(layout) => layout.scan(&mut sift),
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
                look(sift, i, number, scores);
            }
        }
    }
}

/// Offer the columns of a panel to a row. Rows beyond the last one fill up a group.
#[inline(always)]
pub fn look<const LANES: usize>(sift: &mut Sift, i: usize, panel: usize, scores: &[f32; LANES]) {
    let Some(&threshold) = sift.thresholds.get(i) else { return };
    if scores.iter().fold(false, |any, &score| any | (score >= threshold)) {
        sift.take(i, panel * LANES, scores);
    }
}

/// # Safety
/// The processor must have bfloat16.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "bf16")]
unsafe fn columns_in_bf16(x: &[f32], dim: usize) -> aarch64::bf16::Panels<{ aarch64::bf16::LANES }> {
    let mut columns = aarch64::bf16::Panels::default();
    columns.load(x, &vec![0.0; dim]);
    columns
}

/// Of the float32 kernels.
fn nothing(_: &[f32]) -> f64 {
    0.0
}

/// |x - bf16(x)|.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn lost_to_bf16(x: &[f32]) -> f64 {
    let lost = x.iter().map(|&x| {
        // To nearest, ties to even: what does not fit the upper 16 bits carries into them.
        let bits = x.to_bits();
        let rounded = f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000);
        f64::from(x - rounded).powi(2)
    });
    lost.sum::<f64>().sqrt()
}
