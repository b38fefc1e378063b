//! The float32 search for any processor.
//!
//! The labels are those of the other float32 kernels, whose sums are chains of fused multiply-adds. Without an
//! instruction for these, each is a call of a function or a dozen operations. So the first pass multiplies and adds
//! apart, with bounds of what the two ways can differ by. A row that has one centroid within its bounds is done. Of
//! other rows, each panel with a centroid within the bounds is computed anew, by emulated chains.

use super::generic::{products, Centred, F32Scratch};
use super::multiply_add::{Apart, Emulated};
use super::{Nearest, Scratch};
use crate::convert::Rows;

/// 6 rows by 8 centroids: 12 of the 16 registers of four lanes that x86-64's baseline has.
pub const GROUP: usize = 6;
pub const LANES: usize = 8;

pub struct Portable {
    centred: Centred<LANES>,
    /// The bound of a row x and a centroid is |x| slope + constant. [panels, LANES].
    slopes: Vec<f32>,
    constants: Vec<f32>,
}

/// What the first pass knows of a row, by lane.
#[derive(Clone, Copy)]
pub struct Sieve {
    /// The two least of the lower bounds of the scores, and the number of the least one's centroid.
    least: [f32; LANES],
    second: [f32; LANES],
    number: [u32; LANES],
    /// The least of the upper bounds.
    upper: [f32; LANES],
}

impl Portable {
    /// With d columns, e = 2^-23 and N = |x||c|, a chain of either kind is off from x.c by at most d e/2 / (1 - d e/2)
    /// N, and by 2^-150 for each subnormal result. The subtraction from |c|^2/2 rounds either score once more. Three
    /// more roundings, of the bound and of the score less or plus the bound, may take from it. So two scores differ by
    /// less than 9/8 (d + 8) (e (N + |c|^2/2) + 2^-149), as long as d <= 2^20.
    pub fn new(centroids: &[f32], dim: usize) -> Portable {
        let centred = Centred::<LANES>::new(centroids, dim);
        let roundings = if dim <= 1 << 20 { 1.125 * (dim + 8) as f64 } else { f64::INFINITY };
        let e = f64::from(f32::EPSILON);
        let padded = centred.half_norms.len();
        let (mut slopes, mut constants) = (vec![0f32; padded], vec![0f32; padded]);
        let lanes = slopes.chunks_exact_mut(LANES).zip(constants.chunks_exact_mut(LANES));
        for ((slopes, constants), panel) in lanes.zip(centred.panels.panels.chunks_exact(dim * LANES)) {
            for lane in 0..LANES {
                let squared = squared_norm(panel[lane..].iter().step_by(LANES));
                slopes[lane] = up(roundings * e * squared.sqrt());
                constants[lane] = up(roundings * (e * squared / 2.0 + 2f64.powi(-149)));
            }
        }
        Portable { centred, slopes, constants }
    }

    /// Sieve the centroids of a block's rows, [groups, GROUP].
    fn sieve(&self, scratch: &F32Scratch, norms: &[f32], sieves: &mut [Sieve]) {
        let dim = self.centred.panels.dim;
        for (number, panel) in self.centred.panels.panels.chunks_exact(dim * LANES).enumerate() {
            for (g, group) in scratch.groups.chunks_exact(dim * GROUP).enumerate() {
                let dots = products::<Apart, GROUP, LANES>(group, panel);
                for (r, dots) in dots.iter().enumerate() {
                    let (lower, upper) = self.bounds(number, dots, norms[g * GROUP + r]);
                    sieves[g * GROUP + r].offer(number * LANES, &lower, &upper);
                }
            }
        }
    }

    /// Bounds of the scores of a row and a panel of centroids, by products that were rounded apart.
    #[inline(always)]
    fn bounds(&self, panel: usize, dots: &[f32; LANES], norm: f32) -> ([f32; LANES], [f32; LANES]) {
        let [half_norms, slopes, constants] = [&self.centred.half_norms, &self.slopes, &self.constants]
            .map(|all| <&[f32; LANES]>::try_from(&all[panel * LANES..][..LANES]).expect("LANES of them"));
        let (mut lower, mut upper) = ([0f32; LANES], [0f32; LANES]);
        for lane in 0..LANES {
            let score = half_norms[lane] - dots[lane];
            let bound = norm * slopes[lane] + constants[lane];
            (lower[lane], upper[lane]) = (score - bound, score + bound);
        }
        (lower, upper)
    }

    /// The nearest centroid of a row by chains of fused multiply-adds. Panels count that have a centroid with a lower
    /// bound of at most `upper`.
    fn settle(&self, x: &[f32], norm: f32, upper: f32) -> u32 {
        let (mut best, mut label) = (f32::INFINITY, 0);
        for (number, panel) in self.centred.panels.panels.chunks_exact(x.len() * LANES).enumerate() {
            let [dots] = products::<Apart, 1, LANES>(x, panel);
            // NaN, of a row that is not finite, is never above.
            if self.bounds(number, &dots, norm).0.iter().all(|&lower| lower > upper) {
                continue;
            }
            let [dots] = products::<Emulated, 1, LANES>(x, panel);
            for (lane, dot) in dots.iter().enumerate() {
                let score = self.centred.half_norms[number * LANES + lane] - dot;
                if score < best {
                    (best, label) = (score, (number * LANES + lane) as u32);
                }
            }
        }
        label
    }
}

impl Nearest for Portable {
    fn block_rows(&self) -> usize {
        self.centred.block_rows()
    }

    fn assign(&self, rows: Rows, _ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        let dim = self.centred.panels.dim;
        let Scratch { float32, norms, sieves, .. } = scratch;
        self.centred.load::<GROUP>(rows, float32);
        let padded = labels.len().next_multiple_of(GROUP);
        norms.clear();
        norms.extend(float32.x.chunks_exact(dim).map(|x| up(squared_norm(x.iter()).sqrt())));
        norms.resize(padded, 0.0);
        sieves.clear();
        sieves.resize(padded, Sieve::NEW);
        self.sieve(float32, norms, sieves);
        for (i, (label, x)) in labels.iter_mut().zip(float32.x.chunks_exact(dim)).enumerate() {
            *label = sieves[i].outcome().unwrap_or_else(|upper| self.settle(x, norms[i], upper));
        }
    }
}

impl Sieve {
    const NEW: Sieve = {
        let none = [f32::INFINITY; LANES];
        Sieve { least: none, second: none, number: [0; LANES], upper: none }
    };

    #[inline(always)]
    fn offer(&mut self, first: usize, lower: &[f32; LANES], upper: &[f32; LANES]) {
        for lane in 0..LANES {
            let less = lower[lane] < self.least[lane];
            let other = if less { self.least[lane] } else { lower[lane] };
            self.second[lane] = if other < self.second[lane] { other } else { self.second[lane] };
            self.least[lane] = if less { lower[lane] } else { self.least[lane] };
            self.number[lane] = if less { (first + lane) as u32 } else { self.number[lane] };
            self.upper[lane] = if upper[lane] < self.upper[lane] { upper[lane] } else { self.upper[lane] };
        }
    }

    /// The nearest centroid if it is the only one that can be, else the least upper bound.
    fn outcome(&self) -> Result<u32, f32> {
        let least_of = |v: &[f32; LANES]| v.iter().fold(f32::INFINITY, |a, &b| if b < a { b } else { a });
        let least = least_of(&self.least);
        let lane = self.least.iter().position(|&lower| lower == least).unwrap_or(0);
        let mut others = self.least;
        others[lane] = f32::INFINITY;
        let upper = least_of(&self.upper);
        match least_of(&others) > upper && least_of(&self.second) > upper {
            true => Ok(self.number[lane]),
            false => Err(upper),
        }
    }
}

/// In float64.
fn squared_norm<'a>(v: impl Iterator<Item = &'a f32>) -> f64 {
    v.map(|&v| f64::from(v) * f64::from(v)).sum()
}

/// A float32 number that is no less. A float64 sum of squares is off by less than the bounds have to spare.
fn up(v: f64) -> f32 {
    (v as f32).next_up()
}

#[cfg(test)]
mod tests {
    use super::super::{Assigner, Kernel};
    use super::*;
    use crate::testing::{data, Stored};
    use crate::Dtype;

    /// How many of 60 rows have one centroid within their bounds.
    fn decided(centroids: &[f32], dim: usize) -> usize {
        let (portable, mut scratch) = (Portable::new(centroids, dim), Scratch::default());
        let stored = Stored::new(&data(60, dim, 60, 1), dim, Dtype::F32);
        let mut labels = [0; 60];
        portable.assign(stored.rows(), &[], &mut labels, &mut scratch);
        scratch.sieves.iter().filter(|sieve| sieve.outcome().is_ok()).count()
    }

    /// The labels do not show which rows had to be computed anew; the time does.
    #[test]
    fn the_sieve_decides_all_rows_but_ties() {
        let centroids = data(100, 64, 100, 2);
        assert!(decided(&centroids, 64) >= 57, "{} of 60", decided(&centroids, 64));
        assert_eq!(decided(&centroids[..64], 64), 60, "one centroid");
        let twice = [&centroids[..], &centroids[..]].concat();
        assert_eq!(decided(&twice, 64), 0, "each centroid is there twice");
    }
    /// The two ways differ by seven eighths of the bound: of each product, one rounds up and the other down.
    #[test]
    fn the_bounds_hold_where_all_roundings_add_up() {
        let dim = 2000;
        let vector = |first: f32, others: f32| [vec![first], vec![others; dim - 1]].concat();
        // A product of these is a little above half a step of sums in 1..2, and rounds to half a step, a tie.
        let (a, b) = (2f32.powi(-12) * (1.0 + f32::EPSILON), 2f32.powi(-12) * (1.0 - f32::EPSILON / 2.0));
        // The first is nearer than the second by fused chains, and farther by products and sums rounded apart.
        let second = vector(1.0 + 1990.0 * f32::EPSILON, 0.0);
        let centroids = [vector(1.0, b), second, vector(-1.0, 0.0), vector(-1.0, 0.0)].concat();
        let portable = Portable::new(&centroids, dim);
        let (panel, half_norm) = (&portable.centred.panels.panels, portable.centred.half_norms[0]);
        for scale in [1024.0, -1024.0] {
            let x = vector(scale, scale * a);
            let [apart] = products::<Apart, 1, LANES>(&x, panel);
            let [fused] = products::<Emulated, 1, LANES>(&x, panel);
            let (lower, upper) = portable.bounds(0, &apart, up(squared_norm(x.iter()).sqrt()));
            let score = half_norm - fused[0];
            assert!(lower[0] <= score && score <= upper[0], "{} <= {score} <= {}", lower[0], upper[0]);
            let used = (score - (half_norm - apart[0])).abs() / ((upper[0] - lower[0]) / 2.0);
            assert!(used > 0.85, "the case is not as hard as it should be: {used}");
        }
        let stored = Stored::new(&vector(1024.0, 1024.0 * a), dim, Dtype::F32);
        for (kernel, name) in Kernel::available().filter(|(kernel, _)| kernel.rounding() == "float32") {
            let mut label = [9];
            let assigner = Assigner::new(kernel, &centroids, dim, Dtype::F32).unwrap();
            assigner.assign(stored.rows(), &[], &mut label, &mut Scratch::default());
            assert_eq!(label, [0], "{name}");
        }
    }
}
