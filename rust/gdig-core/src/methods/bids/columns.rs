//! One pass over the columns of an influence matrix: their moments, and the highest entries of each.

use std::ops::Range;

use rayon::prelude::*;

use crate::interrupt::{Progress, Supervisor};
use crate::sweep::Influence;
use crate::{Error, Result};

/// Numbers in the rows that are read at once. Moments go over these rows first, so it is fixed: their bits depend on it.
const CHUNK: usize = 1 << 22;

/// Columns that a thread takes at once are neighbours, so that it reads whole cache lines.
const MOST_COLUMNS: usize = 32;

/// Rows that are read at once, of so many columns.
pub fn chunk_rows(n_seeds: usize) -> usize {
    (CHUNK / n_seeds).clamp(256, 1 << 16)
}

/// Mean and spread of one column: float64, two passes over a chunk of rows, chunks put together in order (Chan, Golub and
/// LeVeque, 1983).
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    n: u64,
    mean: f64,
    squares: f64,
    low: f32,
    high: f32,
}

/// What a column's numbers become: (x - mean) / deviation, or 0 in a column where all are equal.
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

    /// The sample's standard deviation, exactly 0 where all numbers are equal.
    pub fn scale(&self) -> Scale {
        let deviation = if self.high > self.low { (self.squares / (self.n - 1) as f64).sqrt() } else { 0.0 };
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
    // The sum makes -0 equal to 0. Bits of a float sort as the float does once the negative ones are turned round.
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

/// The first `most` keys of a column that come after a given one.
pub struct Highest {
    most: usize,
    after: Option<u64>,
    keys: Vec<u64>,
    /// No number up to this one, in a row to come, is among them.
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

/// Of one column: moments, and keys in order.
pub type Column = (Moments, Vec<u64>);

/// Of every column: moments, and its first `most` keys after `after`, in order. Valid rows only; returns their number too.
/// Inside a pool of threads.
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
            // Columns know nothing of one another, so that who takes which does not matter.
            let sound = columns.par_chunks_mut(width).enumerate().map(|(part, columns)| {
                let first = part * width;
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

/// Take in some columns of some rows. False, with nothing of use done, when one of their numbers is not finite.
fn add(rows: &[(usize, &[f32])], columns: Range<usize>, found: &mut [(Moments, Highest)]) -> bool {
    if rows.is_empty() {
        return true;
    }
    let mut sums = [0f64; MOST_COLUMNS];
    let sums = &mut sums[..columns.len()];
    for (_, row) in rows {
        sums.iter_mut().zip(&row[columns.clone()]).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    // One that is not finite makes the sum so: float32s cannot overflow a float64.
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
        for ((moments, highest), &x) in found.iter_mut().zip(&row[columns.clone()]) {
            moments.low = moments.low.min(x);
            moments.high = moments.high.max(x);
            highest.offer(x, number as u32);
        }
    }
    for (((moments, _), &mean), &squares) in found.iter_mut().zip(means.iter()).zip(squares.iter()) {
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
    Error::input("influence: changed while it was read")
}
