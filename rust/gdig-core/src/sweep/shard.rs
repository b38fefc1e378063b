//! The columns of a sweep's shard.

use std::ops::Range;
use std::path::Path;

use super::votes::{Judge, Judged};
use crate::store::{Shard, Store};
use crate::{Dtype, Error, Result};

/// The columns of a shard. Opening checks that they fit one another.
pub struct SweepShard {
    shard: Shard,
    first: usize,
    n_seeds: usize,
}

impl SweepShard {
    pub fn open(store: &Store, index: usize) -> Result<SweepShard> {
        let shard = store.shard(index)?;
        let info = shard.file.info("influence")?;
        let &[_, n_seeds] = &info.shape[..] else {
            let what = format!("influence: expected [n, seeds], got {:?}", info.shape);
            return Err(Error::store(shard.file.path(), what));
        };
        let opened = SweepShard { shard, first: index * store.rows_per_shard(), n_seeds };
        // The check is here, so that reading a row cannot fail.
        opened.shard.file.typed::<f32>("influence", Dtype::F32)?;
        for (name, dtype) in [("loss", Dtype::F32), ("tokens", Dtype::I32), ("valid", Dtype::U8)] {
            let info = opened.shard.file.info(name)?;
            if info.dtype != dtype || info.shape != [opened.shard.len()] {
                let (expected, got) = (dtype.name(), info.dtype.name());
                let what =
                    format!("{name}: expected [{}] of {expected}, got {:?} of {got}", opened.shard.len(), info.shape);
                return Err(Error::store(opened.shard.file.path(), what));
            }
        }
        opened.shard.valid()?;
        Ok(opened)
    }

    /// The rows of the pool that lie here.
    pub fn span(&self) -> Range<usize> {
        self.first..self.first + self.shard.len()
    }

    pub fn view(&self) -> View<'_> {
        View {
            path: self.shard.file.path(),
            first: self.first,
            n_seeds: self.n_seeds,
            influence: self.column("influence", Dtype::F32),
            loss: self.column("loss", Dtype::F32),
            tokens: self.column("tokens", Dtype::I32),
            valid: self.shard.valid().ok().flatten().expect("checked when the shard was opened"),
        }
    }

    fn column<T: bytemuck::Pod>(&self, name: &str, dtype: Dtype) -> &[T] {
        self.shard.file.typed(name, dtype).expect("checked when the shard was opened")
    }
}

/// The columns of a shard. Rows have the numbers of the pool.
pub struct View<'a> {
    pub path: &'a Path,
    first: usize,
    pub n_seeds: usize,
    influence: &'a [f32],
    loss: &'a [f32],
    tokens: &'a [i32],
    valid: &'a [u8],
}

impl<'a> View<'a> {
    pub fn is_valid(&self, row: usize) -> bool {
        self.valid[row - self.first] != 0
    }

    pub fn tokens(&self, row: usize) -> Result<u64> {
        let tokens = self.tokens[row - self.first];
        u64::try_from(tokens).map_err(|_| self.bad(row, &format!("tokens: expected at least 0, got {tokens}")))
    }

    /// The influence of a row on every seed.
    pub fn influence(&self, row: usize) -> &'a [f32] {
        &self.influence[(row - self.first) * self.n_seeds..][..self.n_seeds]
    }

    pub fn loss(&self, row: usize) -> f32 {
        self.loss[row - self.first]
    }

    /// The votes and the score of a row. For an invalid row they mean nothing.
    pub fn judged(&self, row: usize, judge: Judge) -> Result<Judged> {
        let influence = self.influence(row);
        let votes = judge.votes(influence);
        let score = judge.score.of(influence, judge.baselines);
        if !score.is_finite() {
            return Err(self.bad_influence(row, influence.iter().position(|x| !x.is_finite()).unwrap_or(0)));
        }
        Ok(Judged { votes, score: score as f32 })
    }

    /// Check that this shard has as many seeds as the first one.
    pub fn check_seeds(&self, n_seeds: usize) -> Result<()> {
        if self.n_seeds != n_seeds {
            let what = format!("influence: expected {n_seeds} seeds, as in the first shard, got {}", self.n_seeds);
            return Err(Error::store(self.path, what));
        }
        Ok(())
    }

    /// Check that tasks, baselines and cuts are given for as many seeds as this shard has.
    pub fn check_judge(&self, judge: Judge) -> Result<()> {
        judge.misfit(self.n_seeds).map_or(Ok(()), |what| Err(Error::store(self.path, format!("influence: {what}"))))
    }

    /// The error for an influence that is not finite.
    pub fn bad_influence(&self, row: usize, seed: usize) -> Error {
        let x = self.influence(row)[seed];
        self.bad(row, &format!("influence on seed {seed}: expected a finite number, got {x}"))
    }

    pub fn bad(&self, row: usize, what: &str) -> Error {
        Error::store(self.path, format!("row {row}: {what}"))
    }
}

/// Call `visit` with each shard of a sweep that has rows in `span`, and with those rows.
pub fn each_shard(
    store: &Store,
    span: Range<usize>,
    mut visit: impl FnMut(&View, Range<usize>) -> Result<()>,
) -> Result<()> {
    let mut start = span.start;
    while start < span.end {
        let shard = SweepShard::open(store, start / store.rows_per_shard())?;
        let stop = span.end.min(shard.span().end);
        if stop <= start {
            return Err(Error::store(
                shard.shard.file.path(),
                "became shorter while it was read; run again when nothing writes to it",
            ));
        }
        visit(&shard.view(), start..stop)?;
        start = stop;
    }
    Ok(())
}
