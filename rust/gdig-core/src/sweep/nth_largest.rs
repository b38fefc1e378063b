//! The n-th largest of the values that rows have, exact, in memory that does not grow with the rows.
//!
//! A number's bits are put into an order (`sortable`) and looked at in digits from the highest on. One pass over the
//! rows counts the digits of the values that agree with the digits fixed so far, and so fixes one digit more. Counts
//! are integers, so neither threads nor shards matter.

use std::ops::Range;
use std::sync::Mutex;

use super::score::Score;
use super::shard::{each_shard, View};
use super::spans;
use super::votes::{Judge, Voters};
use super::Influence;
use crate::interrupt::Supervisor;
use crate::parallel::{in_order, thread_pool};
use crate::resample::{sortable, unsortable};
use crate::store::Store;
use crate::{Limit, Result};

/// Bits of a digit. A thread holds 32 KB of counts for each column.
const DIGIT: u32 = 12;

/// The bits of a float64 that tell float32 numbers apart: sign, exponent and 23 bits of the fraction.
const FLOAT32_BITS: u32 = 1 + 11 + 23;

/// What a voter's value of a row must exceed so that the voter votes for at most `most` valid rows: the value of rank
/// `most` + 1, or -inf where there are no more than `most` rows. Rows with equal values get the vote together or not
/// at all, so a voter for whom all rows are equal votes for none.
pub fn vote_cuts(store: &Store, voters: Voters, most: u64, supervisor: &Supervisor) -> Result<Vec<f64>> {
    let n_seeds = Influence::sweep(store)?.n_seeds();
    let bits = match voters {
        Voters::Seeds => FLOAT32_BITS,
        Voters::Tasks(_) => u64::BITS,
    };
    let read = |shard: &View, row: usize, values: &mut [f64]| {
        let influence = shard.influence(row);
        if let Some(seed) = influence.iter().position(|x| !x.is_finite()) {
            return Err(shard.bad_influence(row, seed));
        }
        voters.each_value(influence, |voter, value| values[voter] = value);
        Ok(1)
    };
    let judge = Judge::new(Score::Mean, voters);
    nth_largest(store, judge, voters.count(n_seeds), most.saturating_add(1), bits, &read, supervisor)
}

/// The largest score such that the valid rows with at least this score fill `limit`; -inf where all rows do not.
pub fn least_score(store: &Store, judge: Judge, limit: Limit, supervisor: &Supervisor) -> Result<f32> {
    let read = |shard: &View, row: usize, values: &mut [f64]| {
        values[0] = f64::from(shard.verdict(row, judge)?.score);
        match limit {
            Limit::Rows(_) => Ok(1),
            Limit::Tokens(_) => shard.tokens(row),
        }
    };
    let least = nth_largest(store, judge, 1, limit.amount(), FLOAT32_BITS, &read, supervisor)?;
    Ok(least[0] as f32)
}

/// A column of values during the search.
#[derive(Clone, Copy)]
struct Column {
    /// The digits fixed so far, in the high bits.
    key: u64,
    /// What the rows with these digits must weigh. None: all rows weigh less than was asked for.
    wanted: Option<u64>,
}

/// Of each column the largest value v such that the valid rows with values of at least v weigh `wanted` or more.
///
/// `read` writes a row's values and returns its weight. The values differ in their first `bits` bits alone.
fn nth_largest(
    store: &Store,
    judge: Judge,
    n_columns: usize,
    wanted: u64,
    bits: u32,
    read: &(impl Fn(&View, usize, &mut [f64]) -> Result<u64> + Sync),
    supervisor: &Supervisor,
) -> Result<Vec<f64>> {
    let rows = store.check_complete()?;
    let mut columns = vec![Column { key: 0, wanted: Some(wanted.max(1)) }; n_columns];
    let pool = thread_pool(0)?;
    for low in (0..bits.div_ceil(DIGIT)).map(|digit| u64::BITS.saturating_sub((digit + 1) * DIGIT)) {
        let width = (u64::BITS - low - 1) % DIGIT + 1;
        let resting: Mutex<Vec<Vec<u64>>> = Mutex::new(Vec::new());
        let count = |span: Range<usize>| {
            supervisor.check()?;
            let rested = resting.lock().expect("no thread panics with the lock").pop();
            let mut counts = rested.unwrap_or_else(|| vec![0u64; n_columns << DIGIT]);
            let mut values = vec![0f64; n_columns];
            each_shard(store, span, |shard, rows| {
                shard.check_judge(judge)?;
                for row in rows.filter(|&row| shard.is_valid(row)) {
                    let weight = read(shard, row, &mut values)?;
                    let counts = counts.chunks_exact_mut(1 << DIGIT);
                    for ((&value, column), counts) in values.iter().zip(&columns).zip(counts) {
                        let apart = (sortable(value) ^ column.key) >> low;
                        // The digits fixed so far agree, so this is the next digit.
                        if apart >> width == 0 {
                            counts[apart as usize] += weight;
                        }
                    }
                }
                Ok(())
            })?;
            resting.lock().expect("no thread panics with the lock").push(counts);
            Ok(())
        };
        pool.install(|| in_order(spans(rows), count))?;
        let parts = resting.into_inner().expect("no thread panics with the lock");
        for (j, column) in columns.iter_mut().enumerate() {
            let weight = |digit: usize| parts.iter().map(|counts| counts[(j << DIGIT) + digit]).sum::<u64>();
            let Some(mut rest) = column.wanted else { continue };
            column.wanted = None;
            for digit in (0..1usize << width).rev() {
                let weight = weight(digit);
                if weight >= rest {
                    (column.key, column.wanted) = (column.key | (digit as u64) << low, Some(rest));
                    break;
                }
                rest -= weight;
            }
        }
    }
    Ok(columns
        .into_iter()
        .map(|column| column.wanted.map_or(f64::NEG_INFINITY, |_| value_of(column.key, bits)))
        .collect())
}

/// The value with these first bits. The other bits are those of a number whose fraction ends there.
fn value_of(key: u64, bits: u32) -> f64 {
    let rest = if bits < u64::BITS && key >> (u64::BITS - 1) == 0 { u64::MAX >> bits } else { 0 };
    unsortable(key | rest)
}
