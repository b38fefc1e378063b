//! The columns of a sweep's shard, and the rows of a sweep to draw from.

use std::ops::Range;
use std::path::Path;

use super::labels::{LabelFile, LabelFiles};
use super::score::Score;
use crate::hash::{derive, RowHash};
use crate::interrupt::Supervisor;
use crate::resample::{sortable, Population, Row, NOT_ELIGIBLE};
use crate::store::{Shard, Store};
use crate::{Dtype, Error, Result};

/// What a row's influence comes to.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    pub score: Score,
    pub voters: Voters<'a>,
}

/// Who votes for a row.
#[derive(Clone, Copy)]
pub enum Voters<'a> {
    /// Every seed, by the sign of the row's influence on it.
    Seeds,
    /// Every task, by the sign of the mean influence on its seeds.
    Tasks(&'a Tasks),
}

impl Voters<'_> {
    /// How many vote, where there are so many seeds.
    pub fn count(&self, n_seeds: usize) -> usize {
        match self {
            Voters::Seeds => n_seeds,
            Voters::Tasks(tasks) => tasks.seeds.len(),
        }
    }

    /// Whether tasks are given for as many seeds as a shard has.
    pub fn check(&self, shard: &View) -> Result<()> {
        match self {
            Voters::Tasks(tasks) if tasks.n_seeds != shard.n_seeds => {
                let what =
                    format!("influence: expected {} seeds, as have a task, got {}", tasks.n_seeds, shard.n_seeds);
                Err(Error::store(shard.path, what))
            }
            _ => Ok(()),
        }
    }
}

/// Seeds in groups.
pub struct Tasks {
    n_seeds: usize,
    /// Of each task, rising.
    seeds: Vec<Vec<usize>>,
}

impl Tasks {
    /// `of_seed`: the task of each seed, 0, 1, ...
    pub fn new(of_seed: &[i64]) -> Result<Tasks> {
        let mut seeds: Vec<Vec<usize>> = Vec::new();
        for (seed, &task) in of_seed.iter().enumerate() {
            let most = of_seed.len() - 1;
            let outside = || Error::input(format!("tasks: seed {seed}: expected a task of 0 to {most}, got {task}"));
            let task = usize::try_from(task).ok().filter(|&task| task <= most).ok_or_else(outside)?;
            if task >= seeds.len() {
                seeds.resize(task + 1, Vec::new());
            }
            seeds[task].push(seed);
        }
        if let Some(task) = seeds.iter().position(Vec::is_empty) {
            return Err(Error::input(format!("tasks: no seed is of task {task}")));
        }
        Ok(Tasks { n_seeds: of_seed.len(), seeds })
    }

    fn votes(&self, influence: &[f32]) -> u32 {
        let sum = |seeds: &Vec<usize>| seeds.iter().map(|&seed| f64::from(influence[seed])).sum::<f64>();
        self.seeds.iter().filter(|&seeds| sum(seeds) > 0.0).count() as u32
    }
}

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
    pub fn verdict(&self, row: usize, judge: Judge) -> Result<Verdict> {
        let influence = &self.influence[(row - self.first) * self.n_seeds..][..self.n_seeds];
        let votes = match judge.voters {
            Voters::Seeds => influence.iter().filter(|&&x| x > 0.0).count() as u32,
            Voters::Tasks(tasks) => tasks.votes(influence),
        };
        let score = judge.score.of(influence);
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
    pub voters: Voters<'a>,
    pub least_votes: u32,
    /// Inside a cluster the highest score first; `None`: by a hash.
    pub by_score: Option<Score>,
    pub seed: u64,
    pub len: usize,
    pub supervisor: &'a Supervisor<'a>,
}

impl Population for Drawable<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn each(&self, span: Range<usize>, visit: &mut impl FnMut(Row)) -> Result<()> {
        let hash = RowHash::new(derive(self.seed, "rows"));
        let mut file: Option<LabelFile> = None;
        // Without a score only the votes are asked for, which both rules give.
        let judge = Judge { score: self.by_score.unwrap_or(Score::Mean), voters: self.voters };
        each_shard(self.store, span, |shard, rows| {
            self.voters.check(shard)?;
            for row in rows {
                if !shard.is_valid(row) {
                    continue;
                }
                let label = match self.labels {
                    None => 0,
                    Some(labels) => {
                        if file.as_ref().is_none_or(|file| !file.span.contains(&row)) {
                            file = Some(labels.file_of(row, self.supervisor)?);
                        }
                        file.as_ref().expect("opened just above").label(row)
                    }
                };
                if label == NOT_ELIGIBLE {
                    continue;
                }
                let verdict = shard.verdict(row, judge)?;
                if verdict.votes < self.least_votes {
                    continue;
                }
                let key = match self.by_score {
                    Some(_) => !sortable(f64::from(verdict.score)),
                    None => hash.of(row as u64),
                };
                visit(Row { row: row as u64, label: label as usize, key, cost: shard.tokens(row)? });
            }
            Ok(())
        })
    }
}
