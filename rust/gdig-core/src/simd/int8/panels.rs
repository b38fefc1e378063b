//! The int8 search over panels. One source is compiled for several instruction sets, which differ in their dot step.

use super::super::aligned::Aligned;
use super::super::best::{least_of, offer, Bests};
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
    /// What is added to a column of a centroid before it is multiplied.
    const SHIFT: i32 = 0;
    /// Whether the words of a row are its bytes, so that whole words are read where the rows are stored.
    const IN_PLACE: bool = false;
    /// Words of a centroid that lie side by side.
    const BESIDE: usize = 1;

    /// A word of a row, and one of a centroid, of `COLUMNS` columns.
    fn row_word(columns: &[i8]) -> i32;
    fn centroid_word(columns: &[i8]) -> i32;

    unsafe fn load(from: *const i32) -> Self::Register;
    unsafe fn store(register: Self::Register, to: *mut i32);
    unsafe fn splat(word: i32) -> Self::Register;
    unsafe fn dot(sums: Self::Register, row: Self::Register, centroids: Self::Register) -> Self::Register;

    /// Scores of a row and a panel, whose number of its first centroid is `first`, for the best of the row so far. This
    /// is what the search does behind each row of each panel.
    #[inline(always)]
    unsafe fn offer<M: MultiplyAdd, const LANES: usize>(
        sums: &[i32; LANES],
        row_scale: f32,
        panel: &Scales<LANES>,
        first: u32,
        best: (&mut [f32; LANES], &mut [u32; LANES]),
    ) {
        let mut scores = [0f32; LANES];
        for lane in 0..LANES {
            scores[lane] = M::of(-(sums[lane] as f32 * panel.scales[lane]), row_scale, panel.offsets[lane]);
        }
        offer(best, first, &scores);
    }

    /// Write the scores of rows and a panel to `out`, and return the least of each row.
    #[inline(always)]
    unsafe fn scores<M: MultiplyAdd, const GROUP: usize, const LANES: usize>(
        sums: &[[i32; LANES]; GROUP],
        row_scales: &[f32; GROUP],
        panel: &Scales<LANES>,
        out: &mut [[f32; LANES]; GROUP],
    ) -> [f32; GROUP] {
        for r in 0..GROUP {
            for lane in 0..LANES {
                out[r][lane] = M::of(-(sums[r][lane] as f32 * panel.scales[lane]), row_scales[r], panel.offsets[lane]);
            }
        }
        out.map(least_of)
    }

    /// The centroid of each row: the lower of those with the best score.
    #[inline(always)]
    unsafe fn labels<const LANES: usize>(bests: &Bests, labels: &mut [u32]) {
        bests.labels::<LANES>(labels);
    }

    /// Inner products of `GROUP` rows, [steps] words each, and a panel of centroids, [steps, LANES]. The rows may have
    /// any alignment. The sums of each begin at its number of `starts`.
    #[inline(always)]
    unsafe fn sums<const GROUP: usize, const REGISTERS: usize, const LANES: usize>(
        rows: [*const i32; GROUP],
        starts: [i32; GROUP],
        panel: &[i32],
    ) -> [[i32; LANES]; GROUP] {
        const { assert!(Self::LANES * REGISTERS == LANES && Self::BESIDE == 1) };
        let mut sums = starts.map(|start| [Self::splat(start); REGISTERS]);
        for (step, c) in panel.chunks_exact(LANES).enumerate() {
            let mut centroids = [Self::splat(0); REGISTERS];
            for (i, centroids) in centroids.iter_mut().enumerate() {
                *centroids = Self::load(c.as_ptr().add(i * Self::LANES));
            }
            for r in 0..GROUP {
                let row = Self::splat(rows[r].add(step).read_unaligned());
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
    ($name:ident, $register:ty, $lanes:literal, $columns:literal, $shift:literal, $in_place:literal,
        $row:expr, $centroid:expr, $load:ident, $store:ident, $splat:ident, $dot:expr $(, $more:item)*) => {
        pub struct $name;

        impl Dot for $name {
            type Register = $register;
            const LANES: usize = $lanes;
            const COLUMNS: usize = $columns;
            const SHIFT: i32 = $shift;
            const IN_PLACE: bool = $in_place;

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

            $($more)*
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use dot;

/// Centroids in panels of `LANES`.
pub struct Panels<const LANES: usize> {
    pub(super) dim: usize,
    /// Words of a row.
    pub(super) steps: usize,
    /// [panels, steps, LANES]; zeros where the last panel and the last word are filled up.
    pub(super) words: Aligned<i32>,
    /// [panels]
    pub(super) scales: Vec<Scales<LANES>>,
}

/// What turns the sums of a panel into scores.
pub struct Scales<const LANES: usize> {
    pub scales: [f32; LANES],
    /// Infinity where the last panel is filled up, so that no row goes there.
    pub offsets: [f32; LANES],
}

#[derive(Default)]
pub struct Int8Scratch {
    pub(super) rows: RowScratch,
    bests: Bests,
    /// For a search that knows something: bounds of each row, and the best score so far.
    pub(super) known: KnownRows,
    pub(super) best: Vec<f32>,
}

/// What a `known::rounding::Row` has of each row of a block, and the least score of the panel at hand: not a number where the panel was not
/// searched. Each is [rows], so that the bounds of several rows are taken at once.
#[derive(Default)]
pub(super) struct KnownRows {
    pub(super) squared: Vec<f64>,
    pub(super) bound: Vec<f64>,
    pub(super) least: Vec<f32>,
}

/// Memory for a block of rows as the dot steps take them.
#[derive(Default)]
pub struct RowScratch {
    /// [rows, steps], where rows are not taken in place.
    words: Vec<i32>,
    /// Where the sums of each row begin, so that they end as those of centroids without `SHIFT`, [rows]. int32 wraps on
    /// the way.
    starts: Vec<i32>,
}

/// A block of rows as the dot steps take them.
pub(super) struct Block<'a> {
    /// [rows, steps] words of four bytes.
    bytes: &'a [u8],
    starts: &'a [i32],
    steps: usize,
}

impl Block<'_> {
    /// The words of some rows, and where their sums begin.
    #[inline(always)]
    pub(super) fn of<const GROUP: usize>(&self, rows: [usize; GROUP]) -> ([*const i32; GROUP], [i32; GROUP]) {
        let words = rows.map(|row| self.bytes[row * self.steps * 4..][..self.steps * 4].as_ptr().cast());
        (words, rows.map(|row| self.starts[row]))
    }
}

impl<const LANES: usize> Panels<LANES> {
    pub fn new<D: Dot>(centroids: &[f32], dim: usize) -> Option<Panels<LANES>> {
        Some(Panels::of::<D>(centroids.len() / dim, dim, rounded(centroids, dim)?))
    }

    /// Of `n` rounded centroids of `dim` columns, at most `MAX_DIM`.
    pub fn of<D: Dot>(n: usize, dim: usize, centroids: impl Iterator<Item = Rounded>) -> Panels<LANES> {
        let steps = dim.div_ceil(D::COLUMNS).next_multiple_of(D::BESIDE);
        let padded = n.next_multiple_of(LANES);
        let mut words = Aligned::zeros(padded * steps);
        let filling = || Scales { scales: [0.0; LANES], offsets: [f32::INFINITY; LANES] };
        let mut scales: Vec<_> = std::iter::repeat_with(filling).take(padded / LANES).collect();
        for (k, centroid) in centroids.enumerate() {
            let panel = &mut words[k / LANES * steps * LANES..][..steps * LANES];
            let columns = centroid.q.chunks_exact(D::COLUMNS);
            let last = last_word::<D>(columns.remainder(), D::centroid_word);
            for (step, word) in columns.map(D::centroid_word).chain(last).enumerate() {
                panel[(step / D::BESIDE * LANES + k % LANES) * D::BESIDE + step % D::BESIDE] = word;
            }
            let Scales { scales, offsets } = &mut scales[k / LANES];
            (scales[k % LANES], offsets[k % LANES]) = (centroid.scale, centroid.offset);
        }
        Panels { dim, steps, words, scales }
    }

    pub fn block_rows(&self) -> usize {
        (BLOCK_BYTES / (4 * self.steps)).clamp(32, 512)
    }

    /// The scales of the centroids of a panel.
    #[inline(always)]
    pub fn scales(&self, panel: usize) -> &[f32; LANES] {
        &self.scales[panel].scales
    }

    /// Give `take` the number of a row, that of a panel, and the sums of the panel and some rows from that one on, until
    /// all of `rows`, [n, dim], and all panels have been. `GROUP` rows by `REGISTERS` registers of centroids are taken
    /// at a time, with their sums in registers. The compiler inlines this into the functions of an instruction set, and
    /// so compiles it for that set.
    ///
    /// # Safety
    /// As of `D`.
    #[inline(always)]
    pub unsafe fn each<D: Dot, const GROUP: usize, const REGISTERS: usize>(
        &self,
        rows: &[i8],
        dim: usize,
        scratch: &mut RowScratch,
        mut take: impl FnMut(usize, usize, &[[i32; LANES]]),
    ) {
        let (n, block) = (rows.len() / dim, self.load::<D>(rows, dim, scratch));
        // A panel stays in the cache while all groups of the block pass by.
        for (number, panel) in self.words.chunks_exact(self.steps * LANES).enumerate() {
            for first in (0..n).step_by(GROUP) {
                // The last group is filled up with the last row.
                let (words, starts) = block.of::<GROUP>(std::array::from_fn(|r| (first + r).min(n - 1)));
                let sums = D::sums::<GROUP, REGISTERS, LANES>(words, starts, panel);
                take(first, number, &sums[..GROUP.min(n - first)]);
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
        let Int8Scratch { rows: memory, bests, .. } = scratch;
        bests.reset::<LANES>(labels.len());
        let bytes = bytemuck::cast_slice::<u8, i8>(rows.bytes());
        let row_scales = &rows.scales()[..labels.len()];
        self.each::<D, GROUP, REGISTERS>(bytes, rows.dim(), memory, |row, panel, sums| {
            let bests = bests.rows(row, sums.len());
            for ((sums, best), row_scale) in sums.iter().zip(bests).zip(&row_scales[row..]) {
                D::offer::<M, LANES>(sums, *row_scale, &self.scales[panel], (panel * LANES) as u32, best);
            }
        });
        D::labels::<LANES>(bests, labels);
    }

    /// A block of rows, [n, dim]. A word behind the last column may be any.
    #[inline(always)]
    pub(super) fn load<'a, D: Dot>(&self, rows: &'a [i8], dim: usize, scratch: &'a mut RowScratch) -> Block<'a> {
        let RowScratch { words, starts } = scratch;
        starts.clear();
        starts.extend(rows.chunks_exact(dim).map(|row| {
            if D::SHIFT == 0 {
                return 0;
            }
            row.iter().fold(0i32, |sum, &x| sum.wrapping_add(i32::from(x))).wrapping_mul(-D::SHIFT)
        }));
        if D::IN_PLACE && dim == self.steps * D::COLUMNS {
            return Block { bytes: bytemuck::cast_slice(rows), starts, steps: self.steps };
        }
        words.resize(rows.len() / dim * self.steps, 0);
        for (row, words) in rows.chunks_exact(dim).zip(words.chunks_exact_mut(self.steps)) {
            let columns = row.chunks_exact(D::COLUMNS);
            if let Some(word) = last_word::<D>(columns.remainder(), D::row_word) {
                words[dim / D::COLUMNS] = word;
            }
            words.iter_mut().zip(columns).for_each(|(word, columns)| *word = D::row_word(columns));
        }
        Block { bytes: bytemuck::cast_slice(words), starts, steps: self.steps }
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
