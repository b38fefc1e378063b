//! The best rows of a sweep, in one pass.

use std::collections::BinaryHeap;
use std::sync::Mutex;

use super::shard::each_shard;
use super::spans;
use super::votes::Judge;
use crate::interrupt::Supervisor;
use crate::parallel::{in_order, thread_pool};
use crate::resample::sortable;
use crate::store::Store;
use crate::{Limit, Result};

/// The number by which rows are ordered.
#[derive(Clone, Copy)]
pub enum By<'a> {
    /// The highest score first.
    Score(Judge<'a>),
    /// The lowest loss first.
    Loss,
}

/// The best rows so far, just enough to exceed the budget.
struct BestRows {
    budget: u64,
    cost: u64,
    /// (key, row, cost): the greatest is the worst.
    rows: BinaryHeap<(u64, u64, u64)>,
}

impl BestRows {
    fn offer(&mut self, entry: (u64, u64, u64)) {
        // If better rows already exceed the budget, this row cannot be picked.
        if self.cost > self.budget && self.rows.peek().is_some_and(|worst| entry > *worst) {
            return;
        }
        self.cost += entry.2;
        self.rows.push(entry);
        while let Some(worst) = self.rows.peek() {
            if self.cost - worst.2 <= self.budget {
                break;
            }
            self.cost -= worst.2;
            self.rows.pop();
        }
    }
}

/// Valid rows, the best first, ties by row number: the longest beginning of that order that the limit allows.
pub fn best(store: &Store, by: By, limit: Limit, supervisor: &Supervisor) -> Result<Vec<i64>> {
    let rows = store.check_complete()?;
    let new = || BestRows { budget: limit.amount(), cost: 0, rows: BinaryHeap::new() };
    let resting: Mutex<Vec<BestRows>> = Mutex::new(Vec::new());
    let read = |span| {
        supervisor.check()?;
        let rested = resting.lock().expect("no thread panics with the lock").pop();
        let mut best = rested.unwrap_or_else(new);
        each_shard(store, span, |shard, rows| {
            if let By::Score(judge) = by {
                shard.check_judge(judge)?;
            }
            for row in rows.filter(|&row| shard.is_valid(row)) {
                let value = match by {
                    By::Score(judge) => -shard.judged(row, judge)?.score,
                    By::Loss => shard.loss(row),
                };
                if value.is_nan() {
                    return Err(shard.bad(row, "loss: expected a number, got NaN in a valid row"));
                }
                let cost = match limit {
                    Limit::Rows(_) => 1,
                    Limit::Tokens(_) => shard.tokens(row)?,
                };
                best.offer((sortable(f64::from(value)), row as u64, cost));
            }
            Ok(())
        })?;
        resting.lock().expect("no thread panics with the lock").push(best);
        Ok(())
    };
    thread_pool(0)?.install(|| in_order(spans(rows), read))?;
    let mut all = new();
    for best in resting.into_inner().expect("no thread panics with the lock") {
        best.rows.into_iter().for_each(|entry| all.offer(entry));
    }
    let mut spent = 0;
    let within = |&(_, _, cost): &(u64, u64, u64)| {
        spent += cost;
        spent <= limit.amount()
    };
    Ok(all.rows.into_sorted_vec().into_iter().take_while(within).map(|(_, row, _)| row as i64).collect())
}
