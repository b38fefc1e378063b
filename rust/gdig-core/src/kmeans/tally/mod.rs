//! The distances of rows to their centroids, and the sums of the rows of each centroid. Both are taken right after the
//! search, while the rows are in the cache.
//!
//! Where centroids have several rows, the rows are taken centroid by centroid, so that the centroid and its sums stay in
//! the first-level cache. The rows of a centroid keep their order, and so the sums their bits.
//!
//! The arithmetic is in float32 on the rows as they are stored, whatever the kernel of the search has rounded. Sums
//! over columns go in 16 lanes and a fixed order, sums over rows one row after the other. So every instruction set
//! gives the same bits.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod decoded;

#[cfg(target_arch = "x86_64")]
use half::bf16;
use half::f16;
use half::slice::HalfFloatSliceExt;

use self::decoded::Decoded;
use crate::convert::Rows;
use crate::rows::distances::{squared_norm, MAX_SQUARED_NORM};
#[cfg(target_arch = "x86_64")]
use crate::Dtype;

/// The instruction sets that the tally is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

#[cfg(target_arch = "x86_64")]
use crate::simd::x86_64::{half_avx2, has_avx2, has_avx512};

impl Isa {
    /// The instruction sets of this machine, the slowest first.
    pub fn available() -> Vec<Isa> {
        #[cfg(target_arch = "x86_64")]
        let faster = [(Isa::Avx2, has_avx2()), (Isa::Avx512, has_avx512())];
        #[cfg(not(target_arch = "x86_64"))]
        let faster: [(Isa, bool); 0] = [];
        let present = faster.into_iter().filter_map(|(isa, here)| here.then_some(isa));
        std::iter::once(Isa::Baseline).chain(present).collect()
    }
}

/// Takes blocks of rows. Each worker has its own tally.
pub struct Tally {
    isa: Isa,
    x: [Vec<f32>; 2],
    /// The rows of the last block in the order of their labels, and where those of each label end, [K + 1].
    order: Vec<u32>,
    ends: Vec<u32>,
    /// The squared distance of each row of the last block to its centroid.
    pub distances: Vec<f32>,
}

/// What a tally takes, and where to. `offset` and `sums` are empty where only distances are taken.
struct Block<'a> {
    rows: Rows<'a>,
    labels: &'a [u32],
    centroids: &'a [f32],
    offset: &'a [f32],
    sums: &'a mut [f32],
}

/// Rows between the prefetch of a centroid with its sums and their use, or of a row. Measured for centroids in the
/// third-level cache.
const FETCHED_AHEAD: usize = 6;
/// The rows for each centroid from which on rows are taken centroid by centroid.
const GROUPED: usize = 2;

/// The place in the block of a row whose numbers are not finite, or too large.
#[derive(Debug, PartialEq)]
pub struct BadRow(pub usize);

impl Tally {
    pub fn new(isa: Option<Isa>) -> Tally {
        let isa = isa.unwrap_or_else(|| *Isa::available().last().expect("the baseline is always there"));
        assert!(Isa::available().contains(&isa), "{isa:?} is not for this machine");
        Tally { isa, x: Default::default(), order: Vec::new(), ends: Vec::new(), distances: Vec::new() }
    }

    /// Take the distance of each row to the centroid of its label, and add the row less `offset` to the sums of that
    /// centroid. `centroids` and `sums` are [K, dim], `offset` is [dim].
    pub fn add(
        &mut self,
        rows: Rows,
        labels: &[u32],
        centroids: &[f32],
        offset: &[f32],
        sums: &mut [f32],
    ) -> Result<(), BadRow> {
        assert_eq!((sums.len(), offset.len()), (centroids.len(), rows.dim()));
        self.run::<true>(Block { rows, labels, centroids, offset, sums })
    }

    /// Take the distances alone.
    pub fn measure(&mut self, rows: Rows, labels: &[u32], centroids: &[f32]) -> Result<(), BadRow> {
        self.run::<false>(Block { rows, labels, centroids, offset: &[], sums: &mut [] })
    }

    fn run<const ADD: bool>(&mut self, block: Block) -> Result<(), BadRow> {
        match self.isa {
            Isa::Baseline => self.decoded::<ADD>(block, |from, to| from.convert_to_f32_slice(to)),
            // SAFETY: `new` has asserted that the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { self.avx2::<ADD>(block) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { self.avx512::<ADD>(block) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c")]
    fn avx2<const ADD: bool>(&mut self, block: Block) -> Result<(), BadRow> {
        self.decoded::<ADD>(block, |from, to| half_avx2(from, to))
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn avx512<const ADD: bool>(&mut self, block: Block) -> Result<(), BadRow> {
        let rows = block.rows;
        // SAFETY: the processor has AVX-512, and each kind of number comes with rows of it.
        unsafe {
            match rows.dtype() {
                Dtype::F64 => self.rows::<ADD>(block, avx512::Stored::<f64>::new(rows)),
                Dtype::F32 => self.rows::<ADD>(block, avx512::Stored::<f32>::new(rows)),
                Dtype::F16 => self.rows::<ADD>(block, avx512::Stored::<f16>::new(rows)),
                Dtype::BF16 => self.rows::<ADD>(block, avx512::Stored::<bf16>::new(rows)),
                _ => self.rows::<ADD>(block, avx512::Stored::<i8>::new(rows)),
            }
        }
    }

    #[inline(always)]
    fn decoded<const ADD: bool>(&mut self, block: Block, half: impl Fn(&[f16], &mut [f32])) -> Result<(), BadRow> {
        let mut x = std::mem::take(&mut self.x);
        x.iter_mut().for_each(|x| x.resize(block.rows.dim(), 0.0));
        let rows = block.rows;
        let taken = self.rows::<ADD>(block, Decoded { rows, x: &mut x, half });
        self.x = x;
        taken
    }

    /// The compiler inlines this into the functions above, and so compiles it for their instruction sets.
    #[inline(always)]
    fn rows<const ADD: bool>(&mut self, block: Block, take: impl Take) -> Result<(), BadRow> {
        let (rows, k) = (block.rows, block.centroids.len() / block.rows.dim());
        self.distances.resize(block.labels.len(), 0.0);
        if block.labels.len() >= GROUPED * k {
            self.by_centroid::<ADD, _>(block, take);
        } else {
            self.in_order::<ADD, _>(block, take);
        }
        self.check(rows)
    }

    /// A number that is not finite shows in the distance, so most rows need no second check.
    fn check(&mut self, rows: Rows) -> Result<(), BadRow> {
        let sound = |squared: f32| squared < MAX_SQUARED_NORM;
        for (i, _) in self.distances.iter().enumerate().filter(|(_, &distance)| !sound(distance)) {
            let x = &mut self.x[0];
            x.resize(rows.dim(), 0.0);
            rows.slice(i, i + 1).decode(x);
            if !sound(squared_norm(x)) {
                return Err(BadRow(i));
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn by_centroid<const ADD: bool, T: Take>(&mut self, block: Block, mut take: T) {
        let Block { rows, labels, centroids, offset, sums } = block;
        let dim = rows.dim();
        self.sort(labels, centroids.len() / dim);
        let Tally { order, ends, distances, .. } = self;
        let bytes = rows.bytes();
        let row_bytes = bytes.len() / labels.len().max(1);
        for (k, centroid) in centroids.chunks_exact(dim).enumerate() {
            let (first, end) = (ends[k] as usize, ends[k + 1] as usize);
            let sum = if ADD { &mut sums[k * dim..][..dim] } else { &mut [][..] };
            for (at, group) in (first..end).step_by(T::GROUP).zip(order[first..end].chunks(T::GROUP)) {
                for &next in order[(at + FETCHED_AHEAD).min(order.len())..].iter().take(T::GROUP) {
                    fetch(&bytes[next as usize * row_bytes..][..row_bytes]);
                }
                take.take::<ADD>(group, Of { centroid, offset, sum: &mut *sum }, distances);
            }
        }
    }

    /// Sort the rows by their labels. Those of a label stay in order.
    fn sort(&mut self, labels: &[u32], k: usize) {
        let Tally { order, ends, .. } = self;
        ends.clear();
        ends.resize(k + 2, 0);
        labels.iter().for_each(|&label| ends[label as usize + 2] += 1);
        (2..ends.len()).for_each(|k| ends[k] += ends[k - 1]);
        order.resize(labels.len(), 0);
        for (i, &label) in labels.iter().enumerate() {
            // What begins as the start of a label's rows ends as their end.
            let at = &mut ends[label as usize + 1];
            order[*at as usize] = i as u32;
            *at += 1;
        }
    }

    #[inline(always)]
    fn in_order<const ADD: bool, T: Take>(&mut self, block: Block, mut take: T) {
        let Block { rows, labels, centroids, offset, sums } = block;
        let dim = rows.dim();
        for (i, &label) in labels.iter().enumerate() {
            if let Some(&next) = labels.get(i + FETCHED_AHEAD) {
                fetch(bytemuck::cast_slice(&centroids[next as usize * dim..][..dim]));
                if ADD {
                    fetch(bytemuck::cast_slice(&sums[next as usize * dim..][..dim]));
                }
            }
            let span = label as usize * dim..(label as usize + 1) * dim;
            let sum = if ADD { &mut sums[span.clone()] } else { &mut [][..] };
            take.take::<ADD>(&[i as u32], Of { centroid: &centroids[span], offset, sum }, &mut self.distances);
        }
    }
}

/// A centroid, and where its rows are added. `offset` and `sum` are empty where only distances are taken.
struct Of<'a> {
    centroid: &'a [f32],
    offset: &'a [f32],
    sum: &'a mut [f32],
}

/// How rows of a centroid are taken. Every way gives the same bits.
trait Take {
    /// The most rows at a time.
    const GROUP: usize;

    /// Write the squared distances of `rows`, with the bits of `squared_distance`, each to its place in `distances`.
    /// With `ADD`, `sum` += x - offset of each row x, one after the other.
    fn take<const ADD: bool>(&mut self, rows: &[u32], of: Of, distances: &mut [f32]);
}

/// Bring a slice into the second-level cache while other work goes on.
#[inline(always)]
fn fetch(of: &[u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in of.chunks(64) {
        // SAFETY: a hint, valid for any address.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.as_ptr().cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = of;
}
