//! Whether `vdpbf16ps` is faster than float32's fused multiply-add. It is half as fast on Intel's chips (Sapphire
//! Rapids), and twice as fast on AMD's (Zen 4 and Zen 5). The labels of near ties depend on the choice, so it must not
//! depend on what else runs: chips of these two makers are told by their numbers, others by a measurement.

use std::arch::x86_64::*;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How often products by `vdpbf16ps` must be taken while fused multiply-adds take one. Chips take half, one or two.
const CLEAR: f64 = 1.25;
const LONGEST: Duration = Duration::from_millis(10);

/// Only where `has_bf16` says yes. The answer stays for the life of the process.
pub fn is_faster() -> bool {
    static FASTER: OnceLock<bool> = OnceLock::new();
    *FASTER.get_or_init(|| {
        let (vendor, family) = chip();
        // SAFETY: the caller has looked whether the processor has the instructions.
        decide(&vendor, family, || unsafe { measured() })
    })
}

fn decide(vendor: &[u8], family: u32, measured: impl FnOnce() -> f64) -> bool {
    match (vendor, family) {
        (b"AuthenticAMD", 0x19 | 0x1a) => true,
        (b"GenuineIntel", 6) => false,
        _ => measured() >= CLEAR,
    }
}

/// The maker's name, and the chip's family with its extension.
fn chip() -> ([u8; 12], u32) {
    let maker = __cpuid(0);
    let mut vendor = [0; 12];
    for (to, register) in vendor.chunks_exact_mut(4).zip([maker.ebx, maker.edx, maker.ecx]) {
        to.copy_from_slice(&register.to_le_bytes());
    }
    let signature = __cpuid(1).eax;
    let family = (signature >> 8) & 0xf;
    (vendor, if family == 0xf { family + ((signature >> 20) & 0xff) } else { family })
}

/// How many products are taken by `vdpbf16ps` while fused multiply-adds take one, in registers. Short bursts of either
/// take turns, and the fastest burst of each counts, which other work does not disturb.
///
/// # Safety
/// The processor must have AVX-512 with bfloat16.
unsafe fn measured() -> f64 {
    let time = |burst: unsafe fn()| {
        let begin = Instant::now();
        burst();
        begin.elapsed().as_secs_f64()
    };
    let (begin, mut fused, mut pairs) = (Instant::now(), f64::INFINITY, f64::INFINITY);
    for _ in 0..200 {
        fused = fused.min(time(fused_burst));
        pairs = pairs.min(time(pairs_burst));
        if begin.elapsed() > LONGEST {
            break;
        }
    }
    2.0 * fused / pairs
}

const STEPS: usize = 500;
/// Sums that run side by side: more than two units times the six cycles that an instruction takes at most.
const CHAINS: usize = 16;

#[target_feature(enable = "avx512f")]
unsafe fn fused_burst() {
    let half = _mm512_set1_ps(black_box(0.5));
    let mut sums = [_mm512_set1_ps(black_box(1.0)); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, half, half);
        }
    }
    black_box(sums);
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pairs_burst() {
    // 0.5 twice.
    let half = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(black_box(0x3f00_3f00)));
    let mut sums = [_mm512_set1_ps(black_box(1.0)); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, half, half);
        }
    }
    black_box(sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_chips_are_not_measured() {
        let never = || unreachable!("a known chip");
        assert!(decide(b"AuthenticAMD", 0x19, never) && decide(b"AuthenticAMD", 0x1a, never));
        assert!(!decide(b"GenuineIntel", 6, never));
        for (ratio, faster) in [(0.5, false), (1.0, false), (1.24, false), (1.26, true), (2.0, true)] {
            assert_eq!(decide(b"CentaurHauls", 7, || ratio), faster);
            assert_eq!(decide(b"AuthenticAMD", 0x1b, || ratio), faster, "a chip to come");
            assert_eq!(decide(b"GenuineIntel", 19, || ratio), faster, "a chip to come");
        }
    }

    /// No speed is asserted; the output shows it with --nocapture.
    #[test]
    fn the_measurement_ends() {
        if !super::super::bf16::has_bf16() {
            println!("not measured: this machine lacks bfloat16");
            return;
        }
        let (vendor, family) = chip();
        // SAFETY: the processor has the instructions.
        let ratio = unsafe { measured() };
        println!("{} family {family:#x}: {ratio:.2}", String::from_utf8_lossy(&vendor));
        assert!(ratio.is_finite() && ratio > 0.0);
    }
}
