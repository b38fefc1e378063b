//! Numbers that begin at a cache line: the load of a register that crosses two lines costs two loads.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{cast_slice, cast_slice_mut, Pod, Zeroable};

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

// SAFETY: sixteen integers without a gap.
unsafe impl Zeroable for Line {}
// SAFETY: as above.
unsafe impl Pod for Line {}

/// A fixed number of `T`, which are not wider than a line.
pub struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Aligned<T> {
    pub fn zeros(len: usize) -> Aligned<T> {
        let lines = vec![Line([0; 16]); (len * size_of::<T>()).div_ceil(size_of::<Line>())];
        Aligned { lines, len, of: PhantomData }
    }

    /// Let it hold so many of `value`, in the memory that it has if that is enough.
    pub fn reset(&mut self, len: usize, value: T) {
        self.lines.resize((len * size_of::<T>()).div_ceil(size_of::<Line>()), Line([0; 16]));
        self.len = len;
        self.fill(value);
    }
}

impl<T: Pod> Default for Aligned<T> {
    fn default() -> Aligned<T> {
        Aligned::zeros(0)
    }
}

impl<T: Pod> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &cast_slice(&self.lines)[..self.len]
    }
}

impl<T: Pod> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut cast_slice_mut(&mut self.lines)[..self.len]
    }
}
