//! The int8 search for any processor: pairs of int16, which x86-64's baseline multiplies and adds in one instruction.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::super::known::{KnownBlock, Moves};
use super::super::multiply_add::Emulated;
use super::super::{Nearest, NearestKnown, Scratch};
#[cfg(target_arch = "x86_64")]
use super::panels::dot;
use super::panels::{pair, Dot, Panels};
use crate::convert::Rows;

pub struct PortableInt8(Panels<8>);

impl PortableInt8 {
    pub fn new(centroids: &[f32], dim: usize) -> Option<PortableInt8> {
        Panels::new::<Pairs>(centroids, dim).map(PortableInt8)
    }
}

impl Nearest for PortableInt8 {
    fn block_rows(&self) -> usize {
        self.0.block_rows()
    }

    fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        // SAFETY: every processor has what this asks for.
        unsafe { self.0.assign::<Pairs, Emulated, 6, 2>(rows, labels, &mut scratch.int8) }
    }

    fn knowing(&self) -> Option<&dyn NearestKnown> {
        Some(self)
    }
}

impl NearestKnown for PortableInt8 {
    fn n_panels(&self) -> usize {
        self.0.n_panels()
    }

    fn moves(&self, centroids: &[f32], before: Option<&[f32]>) -> Moves {
        self.0.moves(centroids, before)
    }

    fn assign(&self, rows: Rows, moves: &Moves, known: KnownBlock, labels: &mut [u32], scratch: &mut Scratch) {
        let scratch = (&mut scratch.int8, &mut scratch.known);
        // SAFETY: every processor has what this asks for.
        unsafe { self.0.assign_known::<Pairs, Emulated, 6, 2>(rows, moves, known, labels, scratch) }
    }
}

#[cfg(target_arch = "x86_64")]
dot!(
    Pairs,
    __m128i,
    4,
    2,
    0,
    false,
    pair,
    pair,
    _mm_loadu_si128,
    _mm_storeu_si128,
    _mm_set1_epi32,
    |sums, row, centroids| { _mm_add_epi32(sums, _mm_madd_epi16(row, centroids)) }
);

#[cfg(not(target_arch = "x86_64"))]
pub struct Pairs;

#[cfg(not(target_arch = "x86_64"))]
impl Dot for Pairs {
    type Register = [i32; 4];
    const LANES: usize = 4;
    const COLUMNS: usize = 2;

    #[inline(always)]
    fn row_word(columns: &[i8]) -> i32 {
        pair(columns)
    }

    #[inline(always)]
    fn centroid_word(columns: &[i8]) -> i32 {
        pair(columns)
    }

    #[inline(always)]
    unsafe fn load(from: *const i32) -> [i32; 4] {
        from.cast::<[i32; 4]>().read()
    }

    #[inline(always)]
    unsafe fn store(register: [i32; 4], to: *mut i32) {
        to.cast::<[i32; 4]>().write(register);
    }

    #[inline(always)]
    unsafe fn splat(word: i32) -> [i32; 4] {
        [word; 4]
    }

    #[inline(always)]
    unsafe fn dot(mut sums: [i32; 4], row: [i32; 4], centroids: [i32; 4]) -> [i32; 4] {
        for lane in 0..4 {
            let (x, c) = (row[lane], centroids[lane]);
            sums[lane] += i32::from(x as i16) * i32::from(c as i16) + (x >> 16) * (c >> 16);
        }
        sums
    }
}
