//! The most operations a second that one thread gets out of an instruction whose operands stay in registers.

use std::time::Instant;

use gdig_core::simd::Kernel;

/// Of the instruction that a kernel lives on; `None` where it has no such instruction (a call for each multiply-add).
pub fn of(kernel: Kernel) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        x86_64::of(kernel)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = kernel;
        None
    }
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
fn rate(flops: f64, mut work: impl FnMut()) -> f64 {
    let time = |work: &mut dyn FnMut()| {
        let begin = Instant::now();
        work();
        begin.elapsed().as_secs_f64()
    };
    flops / (0..20).map(|_| time(&mut work)).fold(f64::INFINITY, f64::min)
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{rate, Kernel};
    use gdig_core::simd::x86_64::tile::Tiles;

    const STEPS: usize = 100_000;
    /// Sums that run side by side: more than the two units times four cycles that a multiply-add takes.
    const CHAINS: usize = 12;

    pub fn of(kernel: Kernel) -> Option<f64> {
        let flops = |lanes: usize| (2 * lanes * CHAINS * STEPS) as f64;
        // A product of two tiles: 16 x 16 sums of 32 (bfloat16) or 64 (int8) products.
        let tiles = |depth: usize| (2 * 16 * 16 * depth * 4 * STEPS) as f64;
        if !kernel.is_available() {
            return None;
        }
        // SAFETY: the processor has what the kernel needs, or it would not be available; tiles live on this thread
        // only.
        match kernel {
            Kernel::Avx2 => Some(rate(flops(8), || unsafe { avx2() })),
            Kernel::Avx512 => Some(rate(flops(16), || unsafe { avx512() })),
            // Two products for each float32 lane.
            Kernel::Avx512Bf16 => Some(rate(2.0 * flops(16), || unsafe { avx512_bf16() })),
            Kernel::AmxBf16 => Some(rate(tiles(32), || unsafe { amx_bf16() })),
            // Two, four and four products for each float32 lane.
            Kernel::Avx2Int8 => Some(rate(2.0 * flops(8), || unsafe { avx2_int8() })),
            Kernel::AvxVnniInt8 => Some(rate(4.0 * flops(8), || unsafe { avx_vnni_int8() })),
            Kernel::Avx512VnniInt8 => Some(rate(4.0 * flops(16), || unsafe { avx512_vnni_int8() })),
            Kernel::AmxInt8 => Some(rate(tiles(64), || unsafe { amx_int8() })),
            _ => None,
        }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn avx512() {
        let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.5)));
        let mut sums = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn avx512_bf16() {
        // 0.5 twice.
        let half: __m512bh = std::mem::transmute(_mm512_set1_epi32(black_box(0x3f00_3f00)));
        let mut sums = [_mm512_set1_ps(black_box(1.0)); CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, half, half);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2() {
        let (a, b) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.5)));
        let mut sums = [_mm256_set1_ps(1.0); CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    /// Integer sums of products, `CHAINS` side by side.
    macro_rules! int8 {
        ($name:ident, $features:literal, $splat:ident, $dot:expr) => {
            #[target_feature(enable = $features)]
            unsafe fn $name() {
                let (a, b) = ($splat(black_box(0x0101_0101)), $splat(black_box(0x0101_0101)));
                let mut sums = [$splat(black_box(0)); CHAINS];
                for _ in 0..STEPS {
                    for sum in &mut sums {
                        // Each product needs the sum before it, or the compiler would take it out of the loop.
                        *sum = $dot(*sum, a, b);
                    }
                }
                black_box(sums);
            }
        };
    }
    int8!(avx2_int8, "avx2", _mm256_set1_epi32, |sum, a, _| _mm256_add_epi32(a, _mm256_madd_epi16(sum, a)));
    int8!(avx_vnni_int8, "avx2,avxvnni", _mm256_set1_epi32, |sum, a, b| _mm256_dpbusd_avx_epi32(sum, a, b));
    int8!(avx512_vnni_int8, "avx512f,avx512vnni", _mm512_set1_epi32, |sum, a, b| _mm512_dpbusd_epi32(sum, a, b));

    /// Four products a step into four sums, as the kernels have them; the operands are whatever the tiles hold, zeros.
    macro_rules! amx {
        ($name:ident, $instruction:literal) => {
            unsafe fn $name() {
                let tiles = Tiles::new();
                tiles.zero();
                for _ in 0..STEPS {
                    asm!(
                        concat!($instruction, " tmm0, tmm4, tmm6"),
                        concat!($instruction, " tmm1, tmm4, tmm7"),
                        concat!($instruction, " tmm2, tmm5, tmm6"),
                        concat!($instruction, " tmm3, tmm5, tmm7"),
                        options(nostack, nomem, preserves_flags)
                    );
                }
            }
        };
    }
    amx!(amx_bf16, "tdpbf16ps");
    amx!(amx_int8, "tdpbssd");
}
