//! The columns of a sweep's shard, and the rows of a sweep to draw from.

use std::ops::Range;
use std::path::Path;

use super::labels::{LabelFile, LabelFiles};
use super::score::Score;
use crate::hash::{derive, row_hash};
use crate::resample::{sortable, Population, Row, NOT_ELIGIBLE};
use crate::store::{Shard, Store};
use crate::{Dtype, Error, Result};

/// One shard's columns, checked to fit one another.
pub struct SweepShard {
    shard: Shard,
    first: usize,
    n_seeds: usize,
}

/// What the seeds say of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    pub votes: u32,
    pub score: f32,
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
        // Checked now, so that reading a row cannot fail.
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
            valid: self.column("valid", Dtype::U8),
        }
    }

    fn column<T: bytemuck::Pod>(&self, name: &str, dtype: Dtype) -> &[T] {
        self.shard.file.typed(name, dtype).expect("checked when the shard was opened")
    }
}

/// A shard's columns. Rows are numbered as in the pool.
pub struct View<'a> {
    pub path: &'a Path,
    first: usize,
    pub n_seeds: usize,
    influence: &'a [f32],
    loss: &'a [f32],
    tokens: &'a [i32],
    valid: &'a [u8],
}

impl View<'_> {
    pub fn is_valid(&self, row: usize) -> bool {
        self.valid[row - self.first] != 0
    }

    pub fn tokens(&self, row: usize) -> Result<u64> {
        let tokens = self.tokens[row - self.first];
        u64::try_from(tokens).map_err(|_| self.bad(row, &format!("tokens: expected at least 0, got {tokens}")))
    }

    pub fn loss(&self, row: usize) -> f32 {
        self.loss[row - self.first]
    }

    /// Of any row; of one that is not valid it says nothing.
    pub fn verdict(&self, row: usize, score: Score) -> Result<Verdict> {
        let influence = &self.influence[(row - self.first) * self.n_seeds..][..self.n_seeds];
        let votes = influence.iter().filter(|&&x| x > 0.0).count() as u32;
        let score = score.of(influence);
        if !score.is_finite() {
            let seed = influence.iter().position(|x| !x.is_finite()).unwrap_or(0);
            let what = format!("influence on seed {seed}: expected a finite number, got {}", influence[seed]);
            return Err(self.bad(row, &what));
        }
        Ok(Verdict { votes, score: score as f32 })
    }

    pub fn bad(&self, row: usize, what: &str) -> Error {
        Error::store(self.path, format!("row {row}: {what}"))
    }
}

/// Call `visit` with each shard of a sweep that has rows in `span`, and with these rows.
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
            return Err(Error::store(shard.shard.file.path(), "became shorter while it was read"));
        }
        visit(&shard.view(), start..stop)?;
        start = stop;
    }
    Ok(())
}

/// Rows of a sweep that may be drawn: valid, with enough votes, and in a cluster if there are clusters.
pub struct Drawable<'a> {
    pub store: &'a Store,
    /// `None`: all rows are of one cluster.
    pub labels: Option<&'a LabelFiles>,
    pub least_votes: u32,
    /// Inside a cluster the highest score first; `None`: by a hash.
    pub by_score: Option<Score>,
    pub seed: u64,
    pub len: usize,
}

impl Population for Drawable<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn each(&self, span: Range<usize>, visit: &mut impl FnMut(Row)) -> Result<()> {
        let row_seed = derive(self.seed, "rows");
        let mut file: Option<LabelFile> = None;
        each_shard(self.store, span, |shard, rows| {
            for row in rows {
                if !shard.is_valid(row) {
                    continue;
                }
                let label = match self.labels {
                    None => 0,
                    Some(labels) => {
                        if file.as_ref().is_none_or(|file| !file.span.contains(&row)) {
                            file = Some(labels.file_of(row)?);
                        }
                        file.as_ref().expect("opened just above").label(row)
                    }
                };
                if label == NOT_ELIGIBLE {
                    continue;
                }
                // Without a score only the votes are asked for, which both rules give.
                let verdict = shard.verdict(row, self.by_score.unwrap_or(Score::Mean))?;
                if verdict.votes < self.least_votes {
                    continue;
                }
                let key = match self.by_score {
                    Some(_) => !sortable(f64::from(verdict.score)),
                    None => row_hash(row_seed, row as u64),
                };
                visit(Row { row: row as u64, label: label as usize, key, cost: shard.tokens(row)? });
            }
            Ok(())
        })
    }
}
