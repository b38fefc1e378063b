//! The counts of a sweep, from one pass over it.

use std::sync::Mutex;

use super::shard::{each_shard, SweepShard};
use super::spans;
use super::votes::Judge;
use crate::interrupt::Supervisor;
use crate::parallel::{in_order, thread_pool};
use crate::store::Store;
use crate::Result;

/// The counts of a sweep.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    pub rows: usize,
    pub n_seeds: usize,
    /// The valid rows with 0, 1, ... votes, up to all voters.
    pub counts: Vec<u64>,
    /// The tokens of the valid rows with 0, 1, ... votes.
    pub tokens: Vec<u64>,
    /// The tokens of all rows, valid or not.
    pub all_tokens: u64,
    /// The sum of the scores of the valid rows, and of their squares.
    pub score: f64,
    pub score_squares: f64,
}

pub fn survey(store: &Store, judge: Judge, supervisor: &Supervisor) -> Result<Survey> {
    let rows = store.check_complete()?;
    // The first shard gives the number of seeds; each other shard is compared with it.
    let n_seeds = if rows == 0 { 0 } else { SweepShard::open(store, 0)?.view().n_seeds };
    let places = judge.voters.count(n_seeds) + 1;
    let new = || Survey { rows, n_seeds, counts: vec![0; places], tokens: vec![0; places], ..Survey::default() };
    // Integers are added in any order. A sum of scores depends on its order, so each span keeps its own.
    let (total, scores) = (Mutex::new(new()), Mutex::new(Vec::new()));
    let count = |span: std::ops::Range<usize>| {
        supervisor.check()?;
        let first = span.start;
        let mut sums = new();
        each_shard(store, span, |shard, rows| {
            shard.check_seeds(n_seeds)?;
            shard.check_judge(judge)?;
            for row in rows {
                let tokens = shard.tokens(row)?;
                sums.all_tokens += tokens;
                if shard.is_valid(row) {
                    let judged = shard.judged(row, judge)?;
                    sums.counts[judged.votes as usize] += 1;
                    sums.tokens[judged.votes as usize] += tokens;
                    sums.score += f64::from(judged.score);
                    sums.score_squares += f64::from(judged.score) * f64::from(judged.score);
                }
            }
            Ok(())
        })?;
        let mut total = total.lock().expect("no thread panics with the lock");
        total.counts.iter_mut().zip(sums.counts).for_each(|(total, more)| *total += more);
        total.tokens.iter_mut().zip(sums.tokens).for_each(|(total, more)| *total += more);
        total.all_tokens += sums.all_tokens;
        scores.lock().expect("no thread panics with the lock").push((first, sums.score, sums.score_squares));
        Ok(())
    };
    thread_pool(0)?.install(|| in_order(spans(rows), count))?;
    let mut total = total.into_inner().expect("no thread panics with the lock");
    let mut scores = scores.into_inner().expect("no thread panics with the lock");
    scores.sort_unstable_by_key(|&(first, ..)| first);
    total.score = scores.iter().map(|&(_, score, _)| score).sum();
    total.score_squares = scores.iter().map(|&(.., squares)| squares).sum();
    Ok(total)
}
