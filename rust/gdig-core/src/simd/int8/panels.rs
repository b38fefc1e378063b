//! The int8 search over panels. One source is compiled for several instruction sets, which differ in their dot step.

use super::super::aligned::Aligned;
use super::super::best::Bests;
use super::super::generic::BLOCK_BYTES;
use super::super::multiply_add::MultiplyAdd;
use super::{rounded, Rounded};
use crate::convert::Rows;

/// A dot step: the products of the columns in a word, added to sums. A word is 32 bits: two columns as int16, or four as
/// bytes.
///
/// # Safety
/// The processor must have what the implementation asks for.
pub trait Dot {
    /// A register of `LANES` sums or words.
    type Register: Copy;
    const LANES: usize;
    /// Columns of a word.
    const COLUMNS: usize;
    /// What is added to a column of a row before it is multiplied.
    const SHIFT: i32;
    /// Words of a centroid that lie side by side.
    const BESIDE: usize = 1;

    /// A word of a row, and one of a centroid, of `COLUMNS` columns.
    fn row_word(columns: &[i8]) -> i32;
    fn centroid_word(columns: &[i8]) -> i32;

    unsafe fn load(from: *const i32) -> Self::Register;
    unsafe fn store(register: Self::Register, to: *mut i32);
    unsafe fn splat(word: i32) -> Self::Register;
    unsafe fn dot(sums: Self::Register, row: Self::Register, centroids: Self::Register) -> Self::Register;

    /// Inner products of `GROUP` rows, [steps] words each, and a panel of centroids, [steps, LANES].
    #[inline(always)]
    unsafe fn sums<const GROUP: usize, const REGISTERS: usize, const LANES: usize>(
        rows: [*const i32; GROUP],
        panel: &[i32],
        starts: &[i32; LANES],
    ) -> [[i32; LANES]; GROUP] {
        const { assert!(Self::LANES * REGISTERS == LANES && Self::BESIDE == 1) };
        let mut sums = [[Self::splat(0); REGISTERS]; GROUP];
        for of_row in &mut sums {
            for (i, sums) in of_row.iter_mut().enumerate() {
                *sums = Self::load(starts.as_ptr().add(i * Self::LANES));
            }
        }
        for (step, c) in panel.chunks_exact(LANES).enumerate() {
            let mut centroids = [Self::splat(0); REGISTERS];
            for (i, centroids) in centroids.iter_mut().enumerate() {
                *centroids = Self::load(c.as_ptr().add(i * Self::LANES));
            }
            for r in 0..GROUP {
                let row = Self::splat(*rows[r].add(step));
                for i in 0..REGISTERS {
                    sums[r][i] = Self::dot(sums[r][i], row, centroids[i]);
                }
            }
        }
        let mut out = [[0i32; LANES]; GROUP];
        for (out, sums) in out.iter_mut().zip(&sums) {
            for (i, sums) in sums.iter().enumerate() {
                Self::store(*sums, out.as_mut_ptr().add(i * Self::LANES));
            }
        }
        out
    }
}

/// A dot step of x86-64: its name, what the constants of [`Dot`] are, and its instructions.
#[cfg(target_arch = "x86_64")]
macro_rules! dot {
    ($name:ident, $register:ty, $lanes:literal, $columns:literal, $shift:literal, $row:expr, $centroid:expr,
        $load:ident, $store:ident, $splat:ident, $dot:expr) => {
        pub struct $name;

        impl Dot for $name {
            type Register = $register;
            const LANES: usize = $lanes;
            const COLUMNS: usize = $columns;
            const SHIFT: i32 = $shift;

            #[inline(always)]
            fn row_word(columns: &[i8]) -> i32 {
                $row(columns)
            }

            #[inline(always)]
            fn centroid_word(columns: &[i8]) -> i32 {
                $centroid(columns)
            }

            #[inline(always)]
            unsafe fn load(from: *const i32) -> $register {
                $load(from.cast())
            }

            #[inline(always)]
            unsafe fn store(register: $register, to: *mut i32) {
                $store(to.cast(), register);
            }

            #[inline(always)]
            unsafe fn splat(word: i32) -> $register {
                $splat(word)
            }

            #[inline(always)]
            unsafe fn dot(sums: $register, row: $register, centroids: $register) -> $register {
                $dot(sums, row, centroids)
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use dot;

/// Centroids in panels of `LANES`.
pub struct Panels<const LANES: usize> {
    /// Words of a row.
    steps: usize,
    /// [panels, steps, LANES]; zeros where the last panel and the last word are filled up.
    words: Aligned<i32>,
    /// Where the sum of each centroid begins, so that it ends as that of rows without `SHIFT`. int32 wraps on the way.
    starts: Vec<i32>,
    scales: Vec<f32>,
    /// Infinity where the last panel is filled up, so that no row goes there.
    offsets: Vec<f32>,
}

#[derive(Default)]
pub struct Int8Scratch {
    /// [rows of whole groups, steps]
    words: Vec<i32>,
    bests: Bests,
}

impl<const LANES: usize> Panels<LANES> {
    pub fn new<D: Dot>(centroids: &[f32], dim: usize) -> Option<Panels<LANES>> {
        Some(Panels::of::<D>(centroids.len() / dim, dim, rounded(centroids, dim)?))
    }

    /// Of `n` rounded centroids of `dim` columns, at most `MAX_DIM`.
    pub fn of<D: Dot>(n: usize, dim: usize, centroids: impl Iterator<Item = Rounded>) -> Panels<LANES> {
        let steps = dim.div_ceil(D::COLUMNS).next_multiple_of(D::BESIDE);
        let padded = n.next_multiple_of(LANES);
        let (mut words, mut starts) = (Aligned::zeros(padded * steps), vec![0; padded]);
        let (mut scales, mut offsets) = (vec![0f32; padded], vec![f32::INFINITY; padded]);
        for (k, centroid) in centroids.enumerate() {
            let panel = &mut words[k / LANES * steps * LANES..][..steps * LANES];
            let columns = centroid.q.chunks_exact(D::COLUMNS);
            let last = last_word::<D>(columns.remainder(), D::centroid_word);
            for (step, word) in columns.map(D::centroid_word).chain(last).enumerate() {
                panel[(step / D::BESIDE * LANES + k % LANES) * D::BESIDE + step % D::BESIDE] = word;
            }
            starts[k] = centroid.q.iter().fold(0i32, |sum, &q| sum.wrapping_sub(D::SHIFT * i32::from(q)));
            (scales[k], offsets[k]) = (centroid.scale, centroid.offset);
        }
        Panels { steps, words, starts, scales, offsets }
    }

    pub fn block_rows(&self) -> usize {
        (BLOCK_BYTES / (4 * self.steps)).clamp(32, 512)
    }

    /// The scales of the centroids of a panel.
    #[inline(always)]
    pub fn scales(&self, panel: usize) -> &[f32; LANES] {
        self.scales[panel * LANES..][..LANES].try_into().expect("LANES of them")
    }

    /// Give `take` a row's number, a panel's, and their sums, for each row of `rows`, [n, dim], and each panel. Rows up
    /// to a multiple of `GROUP` are zeros. `GROUP` rows by `REGISTERS` registers of centroids are taken at a time, with
    /// their sums in registers. The compiler inlines this into the functions of an instruction set, and so compiles it
    /// for that set.
    ///
    /// # Safety
    /// As of `D`.
    #[inline(always)]
    pub unsafe fn each<D: Dot, const GROUP: usize, const REGISTERS: usize>(
        &self,
        rows: &[i8],
        dim: usize,
        words: &mut Vec<i32>,
        mut take: impl FnMut(usize, usize, &[i32; LANES]),
    ) {
        self.load::<D, GROUP>(rows, dim, words);
        // A panel stays in the cache while all groups of the block pass by.
        for (number, panel) in self.words.chunks_exact(self.steps * LANES).enumerate() {
            let starts: &[i32; LANES] = self.starts[number * LANES..][..LANES].try_into().expect("LANES of them");
            for (g, group) in words.chunks_exact(self.steps * GROUP).enumerate() {
                let rows: [*const i32; GROUP] = std::array::from_fn(|r| group[r * self.steps..].as_ptr());
                let sums = D::sums::<GROUP, REGISTERS, LANES>(rows, panel, starts);
                for (r, sums) in sums.iter().enumerate() {
                    take(g * GROUP + r, number, sums);
                }
            }
        }
    }

    /// The nearest centroids.
    ///
    /// # Safety
    /// As of `D`.
    #[inline(always)]
    pub unsafe fn assign<D: Dot, M: MultiplyAdd, const GROUP: usize, const REGISTERS: usize>(
        &self,
        rows: Rows,
        labels: &mut [u32],
        scratch: &mut Int8Scratch,
    ) {
        let Int8Scratch { words, bests } = scratch;
        bests.reset::<LANES>(labels.len().next_multiple_of(GROUP));
        let bytes = bytemuck::cast_slice::<u8, i8>(rows.bytes());
        self.each::<D, GROUP, REGISTERS>(bytes, rows.dim(), words, |row, panel, sums| {
            let scales = self.scales(panel);
            let offsets: &[f32; LANES] = self.offsets[panel * LANES..][..LANES].try_into().expect("LANES of them");
            let row_scale = rows.scales().get(row).copied().unwrap_or(0.0);
            let mut scores = [0f32; LANES];
            for lane in 0..LANES {
                scores[lane] = M::of(-(sums[lane] as f32 * scales[lane]), row_scale, offsets[lane]);
            }
            bests.offer(row, panel * LANES, &scores);
        });
        bests.labels::<LANES>(labels);
    }

    /// The words of a block of rows, zeros behind the last row. A word behind the last column may be any.
    #[inline(always)]
    fn load<D: Dot, const GROUP: usize>(&self, rows: &[i8], dim: usize, words: &mut Vec<i32>) {
        let n = rows.len() / dim;
        words.resize(n.next_multiple_of(GROUP) * self.steps, 0);
        words[n * self.steps..].fill(0);
        for (row, words) in rows.chunks_exact(dim).zip(words.chunks_exact_mut(self.steps)) {
            let columns = row.chunks_exact(D::COLUMNS);
            if let Some(word) = last_word::<D>(columns.remainder(), D::row_word) {
                words[dim / D::COLUMNS] = word;
            }
            words.iter_mut().zip(columns).for_each(|(word, columns)| *word = D::row_word(columns));
        }
    }
}

/// The word of the columns that fill none, if there are any, with zeros behind them.
#[inline(always)]
fn last_word<D: Dot>(columns: &[i8], word: impl Fn(&[i8]) -> i32) -> Option<i32> {
    let mut last = [0i8; 4];
    last[..columns.len()].copy_from_slice(columns);
    (!columns.is_empty()).then(|| word(&last[..D::COLUMNS]))
}

/// Two columns as int16.
pub fn pair(columns: &[i8]) -> i32 {
    i32::from(columns[0] as i16 as u16) | i32::from(columns[1]) << 16
}

/// Four columns as bytes, of which each bit of `flip` turns one over: 0x80 adds 128 to an int8 number, as unsigned.
pub fn four(columns: &[i8], flip: u8) -> i32 {
    i32::from_le_bytes([0, 1, 2, 3].map(|i| columns[i] as u8 ^ flip))
}
