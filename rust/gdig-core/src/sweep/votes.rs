//! The voters, and the votes for a row.

use super::score::Score;
use crate::{Error, Result};

/// How the influence of a row becomes votes and a score.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    pub score: Score,
    pub voters: Voters<'a>,
    /// What the influence on each seed is measured from in the score [S]. Empty means 0.
    pub baselines: &'a [f64],
    /// What the value of a row for a voter must exceed for the vote [voters]. Empty means 0.
    pub cuts: &'a [f64],
}

impl<'a> Judge<'a> {
    /// A judge that measures influence from 0.
    pub fn new(score: Score, voters: Voters<'a>) -> Judge<'a> {
        Judge { score, voters, baselines: &[], cuts: &[] }
    }

    /// The votes for a row with this influence on the seeds.
    pub fn votes(&self, influence: &[f32]) -> u32 {
        let mut votes = 0;
        let cut = |voter: usize| self.cuts.get(voter).copied().unwrap_or(0.0);
        self.voters.each_value(influence, |voter, value| votes += u32::from(value > cut(voter)));
        votes
    }

    /// What is wrong with this judge where there are `n_seeds` seeds.
    pub fn misfit(&self, n_seeds: usize) -> Option<String> {
        let voters = self.voters.count(n_seeds);
        match self.voters {
            Voters::Tasks(tasks) if tasks.n_seeds() != n_seeds => {
                Some(format!("expected {} seeds, one for each entry of tasks, got {n_seeds}", tasks.n_seeds()))
            }
            _ if ![0, n_seeds].contains(&self.baselines.len()) => {
                Some(format!("expected {} seeds, one for each baseline, got {n_seeds}", self.baselines.len()))
            }
            _ if ![0, voters].contains(&self.cuts.len()) => {
                Some(format!("expected {} voters, one for each cut, got {voters}", self.cuts.len()))
            }
            _ => None,
        }
    }
}

/// The voters. Each has a value of every row, and votes for the rows whose value exceeds the voter's cut.
#[derive(Clone, Copy)]
pub enum Voters<'a> {
    /// The value of a row for a seed is the influence on it.
    Seeds,
    /// The value of a row for a task is the sum of the influence on its seeds.
    Tasks(&'a Tasks),
}

impl Voters<'_> {
    /// The number of voters, where there are `n_seeds` seeds.
    pub fn count(&self, n_seeds: usize) -> usize {
        match self {
            Voters::Seeds => n_seeds,
            Voters::Tasks(tasks) => tasks.seeds.len(),
        }
    }

    /// Call `visit` with each voter and the value of a row for the voter.
    #[inline]
    pub fn each_value(&self, influence: &[f32], mut visit: impl FnMut(usize, f64)) {
        match self {
            Voters::Seeds => influence.iter().enumerate().for_each(|(seed, &x)| visit(seed, f64::from(x))),
            Voters::Tasks(tasks) => {
                for (task, seeds) in tasks.seeds.iter().enumerate() {
                    visit(task, seeds.iter().map(|&seed| f64::from(influence[seed])).sum());
                }
            }
        }
    }
}

/// Groups of seeds.
pub struct Tasks {
    n_seeds: usize,
    /// The seeds of each task, ascending.
    seeds: Vec<Vec<usize>>,
}

impl Tasks {
    /// `of_seed` has the task of each seed: 0, 1, ...
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
            return Err(Error::input(format!(
                "tasks: expected at least one seed of each task, got none of task {task}"
            )));
        }
        Ok(Tasks { n_seeds: of_seed.len(), seeds })
    }

    pub fn n_seeds(&self) -> usize {
        self.n_seeds
    }
}

/// The votes for a row, and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    pub votes: u32,
    pub score: f32,
}
