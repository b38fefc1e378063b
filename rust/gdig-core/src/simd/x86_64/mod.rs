//! What x86-64 processors have beyond their baseline.

pub mod amx;
pub mod amx_bf16;
pub mod amx_int8;
pub mod bf16;
mod bf16_speed;
pub mod float32;
pub mod int8;
pub mod tile;

use std::arch::x86_64::*;

use half::f16;

pub fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

pub fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// float16 to float32, 16 at a time.
///
/// # Safety
/// The processor must have AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn half_avx512(from: &[f16], to: &mut [f32]) {
    let (from, to) = (from.chunks(16), to.chunks_mut(16));
    for (from, to) in from.zip(to) {
        if from.len() == 16 && to.len() == 16 {
            // SAFETY: 16 of either, and loads and stores that ask for no alignment.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast()))) };
        } else {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_f32());
        }
    }
}

/// float16 to float32, 8 at a time.
///
/// # Safety
/// The processor must have AVX2 and F16C.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub fn half_avx2(from: &[f16], to: &mut [f32]) {
    let (from, to) = (from.chunks(8), to.chunks_mut(8));
    for (from, to) in from.zip(to) {
        if from.len() == 8 && to.len() == 8 {
            // SAFETY: 8 of either, and loads and stores that ask for no alignment.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) };
        } else {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_f32());
        }
    }
}
