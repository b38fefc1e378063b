//! The distances of rows to their centroids, and the sums of the rows of each centroid. Both are taken right after the
//! search, while the rows are in the cache.
//!
//! Where centroids have several rows, the rows are taken centroid by centroid, so that the centroid and its sums stay in
//! the first-level cache. The rows of a centroid keep their order, and so the sums their bits.
//!
//! The arithmetic is in float32 on the rows as they are stored, whatever the kernel of the search has rounded. Sums
//! over columns go in 16 lanes and a fixed order, sums over rows one row after the other. So every instruction set
//! gives the same bits.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::convert::Rows;
use crate::rows::distances::{squared_distance, squared_norm, LANES, MAX_SQUARED_NORM};

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
use crate::simd::x86_64::{half_avx2, half_avx512, has_avx2, has_avx512};

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
            Isa::Baseline => self.rows::<ADD>(block, |from, to| from.convert_to_f32_slice(to)),
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
        self.rows::<ADD>(block, |from, to| half_avx2(from, to))
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn avx512<const ADD: bool>(&mut self, block: Block) -> Result<(), BadRow> {
        self.rows::<ADD>(block, |from, to| half_avx512(from, to))
    }

    /// The compiler inlines this into the functions above, and so compiles it for their instruction sets.
    #[inline(always)]
    fn rows<const ADD: bool>(&mut self, block: Block, half: impl Fn(&[f16], &mut [f32])) -> Result<(), BadRow> {
        let dim = block.rows.dim();
        self.x.iter_mut().for_each(|x| x.resize(dim, 0.0));
        self.distances.resize(block.labels.len(), 0.0);
        let (rows, k) = (block.rows, block.centroids.len() / dim);
        if block.labels.len() >= GROUPED * k {
            self.by_centroid::<ADD>(block, &half);
        } else {
            self.in_order::<ADD>(block, &half);
        }
        // A number that is not finite shows in the distance, so most rows need no second check.
        let sound = |squared: f32| squared < MAX_SQUARED_NORM;
        for (i, &distance) in self.distances.iter().enumerate() {
            if !sound(distance) {
                rows.decode_row(i, &mut self.x[0], &half);
                if !sound(squared_norm(&self.x[0])) {
                    return Err(BadRow(i));
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn by_centroid<const ADD: bool>(&mut self, block: Block, half: &impl Fn(&[f16], &mut [f32])) {
        let Block { rows, labels, centroids, offset, sums } = block;
        let dim = rows.dim();
        self.sort(labels, centroids.len() / dim);
        let Tally { x: [x, y], order, ends, distances, .. } = self;
        let bytes = rows.bytes();
        let row_bytes = bytes.len() / labels.len().max(1);
        for (k, centroid) in centroids.chunks_exact(dim).enumerate() {
            let (first, end) = (ends[k] as usize, ends[k + 1] as usize);
            let sum = if ADD { &mut sums[k * dim..][..dim] } else { &mut [][..] };
            for (at, pair) in (first..end).step_by(2).zip(order[first..end].chunks(2)) {
                for &next in order[(at + FETCHED_AHEAD).min(order.len())..].iter().take(2) {
                    fetch(&bytes[next as usize * row_bytes..][..row_bytes]);
                }
                rows.decode_row(pair[0] as usize, x, half);
                if let Some(&second) = pair.get(1) {
                    rows.decode_row(second as usize, y, half);
                    let both = two_rows::<ADD>([x, y], centroid, offset, sum);
                    (distances[pair[0] as usize], distances[second as usize]) = both;
                } else {
                    distances[pair[0] as usize] = row::<ADD>(x, centroid, offset, sum);
                }
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
    fn in_order<const ADD: bool>(&mut self, block: Block, half: &impl Fn(&[f16], &mut [f32])) {
        let Block { rows, labels, centroids, offset, sums } = block;
        let (dim, x) = (rows.dim(), &mut self.x[0]);
        for (i, &label) in labels.iter().enumerate() {
            rows.decode_row(i, x, half);
            if let Some(&next) = labels.get(i + FETCHED_AHEAD) {
                fetch(bytemuck::cast_slice(&centroids[next as usize * dim..][..dim]));
                if ADD {
                    fetch(bytemuck::cast_slice(&sums[next as usize * dim..][..dim]));
                }
            }
            let span = label as usize * dim..(label as usize + 1) * dim;
            let sum = if ADD { &mut sums[span.clone()] } else { &mut [][..] };
            self.distances[i] = row::<ADD>(x, &centroids[span], offset, sum);
        }
    }
}

/// |x - c|^2 with the bits of `squared_distance`. With `ADD`, `sum` += x - offset.
#[inline(always)]
fn row<const ADD: bool>(x: &[f32], c: &[f32], offset: &[f32], sum: &mut [f32]) -> f32 {
    if !ADD {
        return squared_distance(x, c);
    }
    let (mut lanes, mut tail) = ([0f32; LANES], 0f32);
    for j in x.len() / LANES * LANES..x.len() {
        let d = x[j] - c[j];
        tail += d * d;
        sum[j] += x[j] - offset[j];
    }
    let columns = x.chunks_exact(LANES).zip(c.chunks_exact(LANES)).zip(offset.chunks_exact(LANES));
    for (((x, c), offset), sum) in columns.zip(sum.chunks_exact_mut(LANES)) {
        for lane in 0..LANES {
            let d = x[lane] - c[lane];
            lanes[lane] += d * d;
            sum[lane] += x[lane] - offset[lane];
        }
    }
    total(tail, lanes)
}

/// `row` of two rows, one after the other, with the same bits.
#[inline(always)]
fn two_rows<const ADD: bool>([x, y]: [&[f32]; 2], c: &[f32], offset: &[f32], sum: &mut [f32]) -> (f32, f32) {
    let (mut first, mut second) = ([0f32; LANES], [0f32; LANES]);
    let mut tails = [0f32; 2];
    for (tail, x) in tails.iter_mut().zip([x, y]) {
        for j in x.len() / LANES * LANES..x.len() {
            let d = x[j] - c[j];
            *tail += d * d;
            if ADD {
                sum[j] += x[j] - offset[j];
            }
        }
    }
    // Neither indices of slices nor arrays of lanes in an array: the compiler would not keep them in registers.
    let rows = x.chunks_exact(LANES).zip(y.chunks_exact(LANES)).zip(c.chunks_exact(LANES));
    if ADD {
        let sums = offset.chunks_exact(LANES).zip(sum.chunks_exact_mut(LANES));
        for (((x, y), c), (offset, sum)) in rows.zip(sums) {
            for lane in 0..LANES {
                let d = x[lane] - c[lane];
                first[lane] += d * d;
                let d = y[lane] - c[lane];
                second[lane] += d * d;
                sum[lane] = sum[lane] + (x[lane] - offset[lane]) + (y[lane] - offset[lane]);
            }
        }
    } else {
        for ((x, y), c) in rows {
            for lane in 0..LANES {
                let d = x[lane] - c[lane];
                first[lane] += d * d;
                let d = y[lane] - c[lane];
                second[lane] += d * d;
            }
        }
    }
    (total(tails[0], first), total(tails[1], second))
}

#[inline(always)]
fn total(tail: f32, lanes: [f32; LANES]) -> f32 {
    lanes.iter().fold(tail, |sum, lane| sum + lane)
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
