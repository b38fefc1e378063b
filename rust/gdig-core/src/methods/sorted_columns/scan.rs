//! A pass over the columns of an influence matrix: their moments, and the highest entries of each.

use std::ops::Range;

use rayon::prelude::*;

use crate::interrupt::{Progress, Supervisor};
use crate::sweep::Influence;
use crate::{Error, Result};

/// The numbers in the rows that are read at once. Moments go over these rows first, so the number is fixed: the bits
/// depend on it.
const CHUNK: usize = 1 << 22;

/// A thread takes neighbouring columns, so that it reads whole cache lines.
const MOST_COLUMNS: usize = 32;

/// The rows of `n_seeds` columns that are read at once.
pub fn chunk_rows(n_seeds: usize) -> usize {
    (CHUNK / n_seeds).clamp(256, 1 << 16)
}

/// The mean and the spread of a column in float64. Each chunk of rows takes two passes; chunks are merged in order
/// (Chan, Golub and LeVeque, 1983).
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    n: u64,
    mean: f64,
    squares: f64,
    low: f32,
    high: f32,
}

/// The scale of a column: its numbers become (x - mean) / deviation, or 0 where all numbers are equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub mean: f64,
    pub deviation: f64,
}

impl Moments {
    const NONE: Moments = Moments { n: 0, mean: 0.0, squares: 0.0, low: f32::INFINITY, high: f32::NEG_INFINITY };

    fn add(&mut self, n: u64, mean: f64, squares: f64) {
        if self.n == 0 {
            (self.n, self.mean, self.squares) = (n, mean, squares);
            return;
        }
        let (ours, theirs) = (self.n as f64, n as f64);
        let (both, apart) = (ours + theirs, mean - self.mean);
        self.mean += apart * (theirs / both);
        self.squares += squares + apart * apart * (ours * theirs / both);
        self.n += n;
    }

    /// Whether two numbers differ.
    pub fn varies(&self) -> bool {
        self.high > self.low
    }

    /// The standard deviation of the sample, exactly 0 where all numbers are equal.
    pub fn scale(&self) -> Scale {
        let deviation = if self.varies() { (self.squares / (self.n - 1) as f64).sqrt() } else { 0.0 };
        Scale { mean: self.mean, deviation }
    }
}

impl Scale {
    #[inline]
    pub fn of(&self, x: f32) -> f64 {
        if self.deviation == 0.0 {
            return 0.0;
        }
        (f64::from(x) - self.mean) / self.deviation
    }
}

/// A number and its row as one key: the highest number first, equal ones by row.
#[inline]
pub fn key(x: f32, row: u32) -> u64 {
    // The sum makes -0 equal to 0. The bits of floats sort as the floats do when those of negative ones are inverted.
    let bits = (x + 0.0).to_bits();
    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(!rising) << 32 | u64::from(row)
}

pub fn row_of(key: u64) -> usize {
    (key & u64::from(u32::MAX)) as usize
}

pub fn value_of(key: u64) -> f32 {
    let rising = !((key >> 32) as u32);
    f32::from_bits(if rising >> 31 == 1 { rising & !(1 << 31) } else { !rising })
}

/// The first `most` keys of a column after a given key.
pub struct Highest {
    most: usize,
    after: Option<u64>,
    keys: Vec<u64>,
    /// Numbers up to the floor, in later rows, are not among them.
    floor: f32,
}

impl Highest {
    fn new(most: usize, after: Option<u64>) -> Highest {
        Highest { most, after, keys: Vec::new(), floor: f32::NEG_INFINITY }
    }

    /// Rows come in order.
    #[inline]
    fn offer(&mut self, x: f32, row: u32) {
        if x > self.floor {
            let key = key(x, row);
            if self.after.is_none_or(|after| key > after) {
                self.keys.push(key);
                if self.keys.len() >= 2 * self.most {
                    self.cut();
                }
            }
        }
    }

    fn cut(&mut self) {
        if self.keys.len() > self.most {
            let (_, &mut last, _) = self.keys.select_nth_unstable(self.most - 1);
            self.keys.truncate(self.most);
            self.floor = value_of(last);
        }
    }

    fn sorted(mut self) -> Vec<u64> {
        self.cut();
        self.keys.sort_unstable();
        self.keys.shrink_to_fit();
        self.keys
    }
}

/// The moments of a column, and its keys in order.
pub type Column = (Moments, Vec<u64>);

/// The number of valid rows; and of each column the moments, and the first `most` keys after `after`, in order. Runs
/// inside a pool of threads.
pub fn scan(
    influence: &Influence,
    most: usize,
    after: Option<&[Option<u64>]>,
    supervisor: &Supervisor,
) -> Result<(u64, Vec<Column>)> {
    let (n, n_seeds) = (influence.len(), influence.n_seeds());
    if u32::try_from(n).is_err() {
        return Err(Error::input(format!("influence: expected at most {} rows, got {n}", u32::MAX)));
    }
    let columns = |seed| (Moments::NONE, Highest::new(most, after.and_then(|after| after[seed])));
    let mut columns: Vec<_> = (0..n_seeds).map(columns).collect();
    let width = n_seeds.div_ceil(4 * rayon::current_num_threads()).clamp(1, MOST_COLUMNS);
    let mut valid = 0;
    for start in (0..n).step_by(chunk_rows(n_seeds)) {
        supervisor.check()?;
        supervisor.report(Progress::Rows { done: start, total: n });
        let span = start..n.min(start + chunk_rows(n_seeds));
        valid += influence.with_rows(span, |rows| -> Result<u64> {
            // Columns are independent, so it does not matter which thread takes which.
            let sound = columns.par_chunks_mut(width).enumerate().map(|(group, columns)| {
                let first = group * width;
                add(rows, first..first + columns.len(), columns)
            });
            if !sound.reduce(|| true, |a, b| a && b) {
                return Err(not_finite(influence, rows));
            }
            Ok(rows.len() as u64)
        })??;
    }
    let done = |(moments, highest): (Moments, Highest)| (moments, highest.sorted());
    Ok((valid, columns.into_par_iter().map(done).collect()))
}

/// Add some columns of some rows to their states. False when a number is not finite; then the states are of no use.
fn add(rows: &[(usize, &[f32])], columns: Range<usize>, states: &mut [(Moments, Highest)]) -> bool {
    if rows.is_empty() {
        return true;
    }
    let mut sums = [0f64; MOST_COLUMNS];
    let sums = &mut sums[..columns.len()];
    for (_, row) in rows {
        sums.iter_mut().zip(&row[columns.clone()]).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    // A number that is not finite makes the sum so, because float32 numbers cannot overflow a float64.
    if sums.iter().any(|sum| !sum.is_finite()) {
        return false;
    }
    let mut squares = [0f64; MOST_COLUMNS];
    let (squares, means) = (&mut squares[..columns.len()], sums);
    means.iter_mut().for_each(|sum| *sum /= rows.len() as f64);
    for (_, row) in rows {
        for ((square, &mean), &x) in squares.iter_mut().zip(means.iter()).zip(&row[columns.clone()]) {
            let apart = f64::from(x) - mean;
            *square += apart * apart;
        }
    }
    for &(number, row) in rows {
        for ((moments, highest), &x) in states.iter_mut().zip(&row[columns.clone()]) {
            moments.low = moments.low.min(x);
            moments.high = moments.high.max(x);
            highest.offer(x, number as u32);
        }
    }
    for (((moments, _), &mean), &squares) in states.iter_mut().zip(means.iter()).zip(squares.iter()) {
        moments.add(rows.len() as u64, mean, squares);
    }
    true
}

/// The first number that is not finite, by row and column.
fn not_finite(influence: &Influence, rows: &[(usize, &[f32])]) -> Error {
    for &(number, row) in rows {
        if let Some(seed) = row.iter().position(|x| !x.is_finite()) {
            return influence.bad(number, seed, row[seed]);
        }
    }
    Error::input("influence: changed while it was read; run again when nothing writes to it")
}
