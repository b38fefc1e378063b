//! One pass over a sweep that counts.

use std::sync::Mutex;

use super::rows::each_shard;
use super::score::Score;
use super::spans;
use crate::interrupt::Supervisor;
use crate::parallel::{in_order, thread_pool};
use crate::store::Store;
use crate::{Error, Result};

/// What a sweep holds, in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    pub rows: usize,
    pub n_seeds: usize,
    /// Valid rows with 0, 1, ... S votes.
    pub counts: Vec<u64>,
    /// Their tokens.
    pub tokens: Vec<u64>,
    /// Tokens of all rows, valid or not.
    pub all_tokens: u64,
    /// Sum of the valid rows' scores.
    pub score: f64,
}

pub fn survey(store: &Store, score: Score, supervisor: &Supervisor) -> Result<Survey> {
    let rows = store.check_complete()?;
    let parts: Mutex<Vec<(usize, Survey)>> = Mutex::new(Vec::new());
    let count = |span: std::ops::Range<usize>| {
        supervisor.check()?;
        let first = span.start;
        let mut part = Survey::default();
        each_shard(store, span, |shard, rows| {
            let n_seeds = shard.n_seeds;
            if part.counts.is_empty() {
                (part.n_seeds, part.counts, part.tokens) = (n_seeds, vec![0; n_seeds + 1], vec![0; n_seeds + 1]);
            } else if n_seeds != part.n_seeds {
                return Err(Error::store(shard.path, seeds_differ(part.n_seeds, n_seeds)));
            }
            for row in rows {
                let tokens = shard.tokens(row)?;
                part.all_tokens += tokens;
                if shard.is_valid(row) {
                    let verdict = shard.verdict(row, score)?;
                    part.counts[verdict.votes as usize] += 1;
                    part.tokens[verdict.votes as usize] += tokens;
                    part.score += f64::from(verdict.score);
                }
            }
            Ok(())
        })?;
        parts.lock().expect("no thread panics with the lock").push((first, part));
        Ok(())
    };
    thread_pool(0)?.install(|| in_order(spans(rows), count))?;
    let mut parts = parts.into_inner().expect("no thread panics with the lock");
    // In the order of the rows, so that the sum has the same bits whoever was first.
    parts.sort_unstable_by_key(|(first, _)| *first);
    let mut total = Survey { rows, ..Survey::default() };
    for (first, part) in parts {
        if first == 0 {
            (total.n_seeds, total.counts, total.tokens) =
                (part.n_seeds, vec![0; part.n_seeds + 1], vec![0; part.n_seeds + 1]);
        } else if part.n_seeds != total.n_seeds {
            let path = store.shard_path(first / store.rows_per_shard());
            return Err(Error::store(&path, seeds_differ(total.n_seeds, part.n_seeds)));
        }
        total.counts.iter_mut().zip(part.counts).for_each(|(total, part)| *total += part);
        total.tokens.iter_mut().zip(part.tokens).for_each(|(total, part)| *total += part);
        total.all_tokens += part.all_tokens;
        total.score += part.score;
    }
    Ok(total)
}

fn seeds_differ(expected: usize, got: usize) -> String {
    format!("influence: expected {expected} seeds, as in the shards before, got {got}")
}
