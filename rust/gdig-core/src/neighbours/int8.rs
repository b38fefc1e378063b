//! Scores of rows and columns that are rounded to int8, each with a scale, by exact integer sums.

use super::sift::Sift;
#[cfg(target_arch = "aarch64")]
use crate::simd::aarch64::int8::{Bytes, Squares};
use crate::simd::int8::panels::{Dot, Panels, RowScratch};
use crate::simd::int8::portable::Pairs;
use crate::simd::int8::Rounded;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86_64::int8::{Bytes256, Bytes512, Pairs256};
use crate::simd::Kernel;

/// Columns laid out for a kernel.
pub enum Layout {
    Portable(Panels<8>),
    #[cfg(target_arch = "aarch64")]
    Neon(Panels<16>),
    #[cfg(target_arch = "aarch64")]
    NeonI8mm(Panels<16>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Panels<16>),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Panels<16>),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Panels<32>),
}

impl Layout {
    /// `x` is [columns, dim], with at most `MAX_DIM` columns; the kernel is available.
    pub fn new(kernel: Kernel, x: &[f32], dim: usize) -> Layout {
        match kernel {
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonInt8 => Layout::Neon(panels::<Bytes, 16>(x, dim)),
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonI8mmInt8 => Layout::NeonI8mm(panels::<Squares, 16>(x, dim)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2Int8 => Layout::Avx2(panels::<Pairs256, 16>(x, dim)),
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnniInt8 => Layout::AvxVnni(panels::<Bytes256, 16>(x, dim)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512VnniInt8 => Layout::Avx512Vnni(panels::<Bytes512, 32>(x, dim)),
            _ => Layout::Portable(panels::<Pairs, 8>(x, dim)),
        }
    }

    /// Offer every column to every row.
    pub fn scan(&self, sift: &mut Sift) {
        /// A layout's panels, by the kernel's dot step in a function of its instruction set, with so many registers of
        /// columns.
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        macro_rules! wide {
            ($panels:ident, $dot:ident, $features:literal, $group:literal by $lanes:literal in $registers:literal) => {{
                #[target_feature(enable = $features)]
                unsafe fn wide(panels: &Panels<$lanes>, sift: &mut Sift) {
                    scan::<$dot, $group, $registers, $lanes>(panels, sift);
                }
                // SAFETY: `new` makes it only where the kernel is available.
                unsafe { wide($panels, sift) }
            }};
        }
        match self {
            // SAFETY: every processor has what this asks for.
            Layout::Portable(panels) => unsafe { scan::<Pairs, 6, 2, 8>(panels, sift) },
            #[cfg(target_arch = "aarch64")]
            Layout::Neon(panels) => wide!(panels, Bytes, "dotprod", 6 by 16 in 4),
            #[cfg(target_arch = "aarch64")]
            Layout::NeonI8mm(panels) => wide!(panels, Squares, "i8mm", 6 by 16 in 4),
            #[cfg(target_arch = "x86_64")]
            Layout::Avx2(panels) => wide!(panels, Pairs256, "avx2,fma", 6 by 16 in 2),
            #[cfg(target_arch = "x86_64")]
            Layout::AvxVnni(panels) => wide!(panels, Bytes256, "avx2,fma,avxvnni", 6 by 16 in 2),
            #[cfg(target_arch = "x86_64")]
            Layout::Avx512Vnni(panels) => wide!(panels, Bytes512, "avx512f,avx512vnni", 12 by 32 in 2),
        }
    }
}

fn panels<D: Dot, const LANES: usize>(x: &[f32], dim: usize) -> Panels<LANES> {
    let columns = x.chunks_exact(dim).map(|x| {
        let mut q = vec![0; dim];
        let scale = round(x, &mut q);
        Rounded { q, scale, offset: 0.0 }
    });
    Panels::of::<D>(x.len() / dim, dim, columns)
}

/// The compiler inlines this into the functions of an instruction set, and so compiles it for that set.
///
/// # Safety
/// As of `D`.
#[inline(always)]
unsafe fn scan<D: Dot, const GROUP: usize, const REGISTERS: usize, const LANES: usize>(
    panels: &Panels<LANES>,
    sift: &mut Sift,
) {
    let (dim, n) = (sift.dim, sift.thresholds.len());
    let mut q = vec![0; n * dim];
    let rows = sift.x.chunks_exact(dim).zip(q.chunks_exact_mut(dim));
    let row_scales: Vec<f32> = rows.map(|(x, q)| round(x, q)).collect();
    panels.each::<D, GROUP, REGISTERS>(&q, dim, &mut RowScratch::default(), |first, panel, sums| {
        let scales = panels.scales(panel);
        for (i, sums) in (first..).zip(sums) {
            let (mut scores, mut reaches) = ([0f32; LANES], false);
            for lane in 0..LANES {
                scores[lane] = sums[lane] as f32 * scales[lane] * row_scales[i];
                reaches |= scores[lane] >= sift.thresholds[i];
            }
            if reaches {
                sift.take(i, panel * LANES, &scores);
            }
        }
    });
}

/// Write q, x divided by the step t = max|x| / 127 and rounded to whole numbers, and return t. A row of zeros has t = 0.
/// The division is one by a rounded reciprocal: `lost` measures what comes of it.
#[inline(always)]
fn round(x: &[f32], q: &mut [i8]) -> f32 {
    // The last bit of numbers near it is 1, so an addition rounds to whole numbers, which are then the lowest bits.
    const WHOLE: f32 = 1.5 * (1u32 << 23) as f32;
    let scale = x.iter().fold(0f32, |most, x| if x.abs() > most { x.abs() } else { most }) / 127.0;
    let steps = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    q.iter_mut().zip(x).for_each(|(q, x)| *q = (x * steps + WHOLE).to_bits() as i8);
    scale
}

/// |x - t q|.
pub fn lost(x: &[f32]) -> f64 {
    let mut q = vec![0; x.len()];
    let scale = f64::from(round(x, &mut q));
    x.iter().zip(&q).map(|(&x, &q)| (f64::from(x) - scale * f64::from(q)).powi(2)).sum::<f64>().sqrt()
}
