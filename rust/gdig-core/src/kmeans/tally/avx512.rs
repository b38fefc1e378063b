//! The tally by instructions of AVX-512. Rows are decoded in registers, where the sums over columns stay too: the compiler
//! keeps those of [`super::decoded`] in memory, which takes twice as long.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use bytemuck::Pod;
use half::{bf16, f16};

use super::{Of, Take};
use crate::convert::Rows;
use crate::rows::distances::LANES;

/// A kind of stored number. Both functions give the bits of `Rows::decode`, but for those of NaN.
///
/// # Safety
/// `load` asks for AVX-512, and reads `LANES` numbers from an address of any alignment.
pub trait Number: Pod {
    unsafe fn load(from: *const Self, scale: f32) -> __m512;
    fn decode(self, scale: f32) -> f32;
}

/// `LANES` numbers at `from` as float32, and one; `scale` is that of an int8 row.
macro_rules! number {
    ($type:ty, |$from:ident, $scale:ident| $load:expr, |$x:ident| $decode:expr) => {
        impl Number for $type {
            #[inline(always)]
            unsafe fn load($from: *const $type, $scale: f32) -> __m512 {
                $load
            }

            #[inline(always)]
            fn decode(self, $scale: f32) -> f32 {
                let $x = self;
                $decode
            }
        }
    };
}

number!(f32, |from, _scale| _mm512_loadu_ps(from), |x| x);
number!(f16, |from, _scale| _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())), |x| x.to_f32());
number!(
    bf16,
    |from, _scale| {
        let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
    },
    |x| x.to_f32()
);
number!(
    f64,
    |from, _scale| {
        let [low, high] = [0, 8].map(|at| _mm512_cvtpd_ps(_mm512_loadu_pd(from.add(at))));
        let both = _mm512_insertf64x4::<1>(_mm512_castps_pd(_mm512_castps256_ps512(low)), _mm256_castps_pd(high));
        _mm512_castpd_ps(both)
    },
    |x| x as f32
);
number!(
    i8,
    |from, scale| {
        let q = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())));
        _mm512_mul_ps(q, _mm512_set1_ps(scale))
    },
    |x| f32::from(x) * scale
);

/// Rows of numbers `T`.
pub struct Stored<'a, T> {
    rows: Rows<'a>,
    of: PhantomData<T>,
}

impl<'a, T: Number> Stored<'a, T> {
    /// # Safety
    /// The processor must have AVX-512.
    pub unsafe fn new(rows: Rows<'a>) -> Stored<'a, T> {
        assert_eq!(rows.dtype().size(), size_of::<T>());
        Stored { rows, of: PhantomData }
    }

    #[inline(always)]
    fn group<const ADD: bool, const N: usize>(&self, rows: [u32; N], of: Of, distances: &mut [f32]) {
        let dim = self.rows.dim();
        let numbers = bytemuck::cast_slice::<u8, T>(self.rows.bytes());
        let scales = rows.map(|row| self.rows.scales().get(row as usize).copied().unwrap_or(1.0));
        let numbers = rows.map(|row| &numbers[row as usize * dim..][..dim]);
        assert!(of.centroid.len() == dim && (!ADD || (of.sum.len(), of.offset.len()) == (dim, dim)));
        // SAFETY: as `new` says, and the assertion above.
        let squared = unsafe { squared_distances::<T, ADD, N>(numbers, scales, of) };
        rows.into_iter().zip(squared).for_each(|(row, squared)| distances[row as usize] = squared);
    }
}

impl<T: Number> Take for Stored<'_, T> {
    const GROUP: usize = 4;

    #[inline(always)]
    fn take<const ADD: bool>(&mut self, rows: &[u32], of: Of, distances: &mut [f32]) {
        match *rows {
            [a, b, c, d] => self.group::<ADD, 4>([a, b, c, d], of, distances),
            [a, b, c] => self.group::<ADD, 3>([a, b, c], of, distances),
            [a, b] => self.group::<ADD, 2>([a, b], of, distances),
            [a] => self.group::<ADD, 1>([a], of, distances),
            _ => unreachable!("groups have 1 to {} rows", Self::GROUP),
        }
    }
}

/// The squared distances of rows, each in the order of `squared_distance`. With `ADD`, `of.sum` += x - offset, row by row.
///
/// # Safety
/// The processor must have AVX-512. All slices have one length, with `ADD` those of `of.offset` and `of.sum` too.
#[inline(always)]
unsafe fn squared_distances<T: Number, const ADD: bool, const N: usize>(
    rows: [&[T]; N],
    scales: [f32; N],
    of: Of,
) -> [f32; N] {
    let Of { centroid, offset, sum } = of;
    let mut lanes = [_mm512_setzero_ps(); N];
    let whole = centroid.len() / LANES * LANES;
    for j in (0..whole).step_by(LANES) {
        let c = _mm512_loadu_ps(centroid.as_ptr().add(j));
        let x: [__m512; N] = std::array::from_fn(|r| T::load(rows[r].as_ptr().add(j), scales[r]));
        for r in 0..N {
            let d = _mm512_sub_ps(x[r], c);
            lanes[r] = _mm512_add_ps(lanes[r], _mm512_mul_ps(d, d));
        }
        if ADD {
            let offset = _mm512_loadu_ps(offset.as_ptr().add(j));
            let sum = sum.as_mut_ptr().add(j);
            let added = x.iter().fold(_mm512_loadu_ps(sum), |sum, &x| _mm512_add_ps(sum, _mm512_sub_ps(x, offset)));
            _mm512_storeu_ps(sum, added);
        }
    }
    std::array::from_fn(|r| {
        let mut squared = 0f32;
        for j in whole..centroid.len() {
            let x = rows[r][j].decode(scales[r]);
            let d = x - centroid[j];
            squared += d * d;
            if ADD {
                sum[j] += x - offset[j];
            }
        }
        let mut of_lanes = [0f32; LANES];
        _mm512_storeu_ps(of_lanes.as_mut_ptr(), lanes[r]);
        of_lanes.iter().fold(squared, |sum, lane| sum + lane)
    })
}
