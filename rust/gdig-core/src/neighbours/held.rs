//! Rows that are held to compare others with: the rows chosen so far, or those of an evaluation set.

use half::f16;
use rayon::prelude::*;

use super::candidates::Near;
use super::columns::ColumnBlock;
use super::kernels::Kernels;
use crate::interrupt::{Progress, Supervisor};
use crate::parallel::thread_pool;
use crate::rows::units::{cosine, scale};
use crate::{Error, Result};

/// The held rows that are laid out for the kernel at once take about this many bytes.
const BLOCK_BYTES: usize = if cfg!(test) { 16 << 10 } else { 64 << 20 };
/// The rows that are compared with the held rows at once, before those of them that may stay are held too.
const STEP: usize = if cfg!(test) { 20 } else { 1024 };
/// The rows of a step that are compared one after another.
const GROUP: usize = if cfg!(test) { 3 } else { 64 };

/// Rows in float16, [len, dim]. They take 2 bytes a number, whatever the pool holds.
pub struct Held {
    dim: usize,
    rows: Vec<f16>,
}

/// The nearest held row of a row, by its place among the held rows; `None` where no cosine exceeds the floor.
pub type Nearest = Option<Near>;

impl Held {
    pub fn new(dim: usize) -> Result<Held> {
        if dim == 0 {
            return Err(Error::input("dim: expected at least 1, got 0"));
        }
        Ok(Held { dim, rows: Vec::new() })
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn len(&self) -> usize {
        self.rows.len() / self.dim
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Hold the first `n` rows alone.
    pub fn truncate(&mut self, n: usize) {
        self.rows.truncate(n.saturating_mul(self.dim));
    }

    /// Hold more rows, [n, dim].
    pub fn add(&mut self, rows: &[f16]) -> Result<()> {
        self.check(rows)?;
        self.rows.extend_from_slice(rows);
        Ok(())
    }

    /// Of each of `rows`, the nearest held row whose cosine exceeds `floor`, ties to the one that was held first.
    pub fn nearest(&self, rows: &[f16], floor: f32, n_threads: usize, supervisor: &Supervisor) -> Result<Vec<Nearest>> {
        self.check(rows)?;
        thread_pool(n_threads)?.install(|| self.search(&units(rows, self.dim), floor, supervisor))
    }

    /// Go through `rows` in order, and hold each whose cosine with every held row is at most `floor` (DEITA, arXiv
    /// 2312.15685). Returns for each row whether it is held.
    pub fn admit(&mut self, rows: &[f16], floor: f32, n_threads: usize, supervisor: &Supervisor) -> Result<Vec<bool>> {
        self.check(rows)?;
        let (dim, total) = (self.dim, rows.len() / self.dim);
        thread_pool(n_threads)?.install(|| {
            let mut admitted = Vec::with_capacity(total);
            for rows in rows.chunks(STEP * dim) {
                let x = units(rows, dim);
                let mut far: Vec<bool> = self.search(&x, floor, supervisor)?.iter().map(Option::is_none).collect();
                among(&x, dim, floor, &mut far);
                let held = rows.chunks_exact(dim).zip(&far).filter(|(_, &far)| far);
                held.for_each(|(row, _)| self.rows.extend_from_slice(row));
                admitted.append(&mut far);
                supervisor.report(Progress::Rows { done: admitted.len(), total });
            }
            Ok(admitted)
        })
    }

    fn check(&self, rows: &[f16]) -> Result<()> {
        if !rows.len().is_multiple_of(self.dim) {
            return Err(Error::input(format!("rows: expected {} columns", self.dim)));
        }
        if self.len() + rows.len() / self.dim >= u32::MAX as usize {
            return Err(Error::input(format!("expected fewer than {} rows", u32::MAX)));
        }
        match rows.iter().position(|x| !x.is_finite()) {
            None => Ok(()),
            Some(at) => {
                let (row, column) = (at / self.dim, at % self.dim);
                Err(Error::input(format!("row {row}, column {column}: expected a finite number, got {}", rows[at])))
            }
        }
    }

    /// `x` are rows at unit length. Runs inside a pool of threads.
    fn search(&self, x: &[f32], floor: f32, supervisor: &Supervisor) -> Result<Vec<Nearest>> {
        let (dim, n) = (self.dim, x.len() / self.dim);
        let kernels = Kernels::new(None, dim)?;
        // Held rows count from 1 here: a row with the number 0 and the floor as its cosine is there at the beginning.
        // A held row takes its place if its cosine is greater.
        let (mut rows, mut cosines) = (vec![0u32; n], vec![floor; n]);
        let queries = vec![u64::from(u32::MAX); n];
        let at_once = (BLOCK_BYTES / (8 * dim)).max(1);
        for (number, held) in self.rows.chunks(at_once * dim).enumerate() {
            let first = (number * at_once + 1) as u64;
            let numbers: Vec<u64> = (first..first + (held.len() / dim) as u64).collect();
            let columns = ColumnBlock::new(&kernels, &numbers, units(held, dim), dim);
            let block = columns.block_rows();
            let work = queries.par_chunks(block).zip(x.par_chunks(block * dim));
            let work = work.zip(rows.par_chunks_mut(block).zip(cosines.par_chunks_mut(block)));
            work.try_for_each(|((queries, x), (rows, cosines))| {
                supervisor.check()?;
                columns.search(queries, x, 1, rows, cosines);
                Ok(())
            })?;
        }
        let near = |(row, cosine): (u32, f32)| (row > 0).then(|| Near { cosine, row: row - 1 });
        Ok(rows.into_iter().zip(cosines).map(near).collect())
    }
}

/// Compare the rows of a step with one another, in order: those that are far from all held rows, with those of them
/// that come to be held. `far` becomes false for each row that does not.
fn among(x: &[f32], dim: usize, floor: f32, far: &mut [bool]) {
    let row = |i: usize| &x[i * dim..][..dim];
    // The rows of the step that are held, in order.
    let mut held: Vec<usize> = Vec::new();
    let is_far = |i: usize, held: &[usize]| held.iter().all(|&other| cosine(row(i), row(other)) <= floor);
    for start in (0..far.len()).step_by(GROUP) {
        let stop = far.len().min(start + GROUP);
        let before = held.len();
        let group = far[start..stop].par_iter_mut().enumerate();
        group.filter(|(_, far)| **far).for_each(|(i, far)| *far = is_far(start + i, &held));
        for (i, far) in far.iter_mut().enumerate().take(stop).skip(start) {
            *far = *far && is_far(i, &held[before..]);
            if *far {
                held.push(i);
            }
        }
    }
}

/// Rows as float32 at unit length.
fn units(rows: &[f16], dim: usize) -> Vec<f32> {
    let mut x = vec![0f32; rows.len()];
    x.par_chunks_mut(dim).zip(rows.par_chunks(dim)).with_min_len(256).for_each(|(x, row)| {
        x.iter_mut().zip(row).for_each(|(x, &half)| *x = half.to_f32());
        scale(x);
    });
    x
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The walk as it is written down: every pair, one after another.
    fn plain(rows: &[f16], dim: usize, floor: f32) -> Vec<bool> {
        let x = units(rows, dim);
        let mut held: Vec<&[f32]> = Vec::new();
        let mut admitted = Vec::new();
        for row in x.chunks_exact(dim) {
            let is_far = held.iter().all(|other| cosine(row, other) <= floor);
            if is_far {
                held.push(row);
            }
            admitted.push(is_far);
        }
        admitted
    }

    proptest! {
        /// Few different numbers, so that rows repeat, cosines tie and rows of zeros come. The rows come in two calls.
        #[test]
        fn the_walk_is_that_of_all_pairs(
            values in prop::collection::vec(-2i8..3, 0..400),
            dim in 1usize..6,
            floor in -1f32..1.0,
            cut in 0usize..400,
            n_threads in 1usize..4,
        ) {
            let n = values.len() / dim;
            let rows: Vec<f16> = values[..n * dim].iter().map(|&x| f16::from_f32(f32::from(x))).collect();
            let cut = cut.min(n) * dim;
            let mut held = Held::new(dim).unwrap();
            let none = Supervisor::none();
            let mut admitted = held.admit(&rows[..cut], floor, n_threads, &none).unwrap();
            admitted.extend(held.admit(&rows[cut..], floor, n_threads, &none).unwrap());
            let expected = plain(&rows, dim, floor);
            prop_assert_eq!(&admitted, &expected);
            prop_assert_eq!(held.len(), expected.iter().filter(|&&admitted| admitted).count());

            let mut all = Held::new(dim).unwrap();
            all.add(&rows).unwrap();
            let nearest = all.nearest(&rows, floor, n_threads, &none).unwrap();
            let x = units(&rows, dim);
            for (row, near) in x.chunks_exact(dim).zip(nearest) {
                let others = x.chunks_exact(dim).enumerate();
                let others = others.map(|(place, other)| Near { cosine: cosine(row, other), row: place as u32 });
                prop_assert_eq!(near, others.filter(|near| near.cosine > floor).min_by(Near::order));
            }
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_named() {
        let mut held = Held::new(2).unwrap();
        let rows = [1.0, 0.0, 1.0, f32::NAN].map(f16::from_f32);
        let error = held.add(&rows).unwrap_err().to_string();
        assert!(error.contains("row 1, column 1"), "{error}");
        assert!(Held::new(0).is_err());
        assert!(held.nearest(&rows[..1], 0.5, 1, &Supervisor::none()).is_err());
    }
}
