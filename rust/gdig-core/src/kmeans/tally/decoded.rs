//! The tally of rows in the source that the compiler compiles for an instruction set.

use half::f16;

use super::{Of, Take};
use crate::convert::Rows;
use crate::rows::distances::{squared_distance, LANES};

/// Two rows of a centroid at a time, decoded to float32 first. `half` converts float16.
pub struct Decoded<'a, H> {
    pub rows: Rows<'a>,
    pub x: &'a mut [Vec<f32>; 2],
    pub half: H,
}

impl<H: Fn(&[f16], &mut [f32])> Take for Decoded<'_, H> {
    const GROUP: usize = 2;

    #[inline(always)]
    fn take<const ADD: bool>(&mut self, rows: &[u32], of: Of, distances: &mut [f32]) {
        let Of { centroid, offset, sum } = of;
        let [x, y] = self.x;
        self.rows.decode_row(rows[0] as usize, x, &self.half);
        if let Some(&second) = rows.get(1) {
            self.rows.decode_row(second as usize, y, &self.half);
            let both = two_rows::<ADD>([x, y], centroid, offset, sum);
            (distances[rows[0] as usize], distances[second as usize]) = both;
        } else {
            distances[rows[0] as usize] = row::<ADD>(x, centroid, offset, sum);
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
