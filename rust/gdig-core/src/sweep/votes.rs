//! The voters, and the votes for a row.

use super::score::Score;
use crate::{Error, Result};

/// How the influence of a row becomes votes and a score.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    pub score: Score,
    pub voters: Voters<'a>,
}

/// The voters.
#[derive(Clone, Copy)]
pub enum Voters<'a> {
    /// Each seed votes for a row with positive influence on it.
    Seeds,
    /// Each task votes for a row with positive mean influence on its seeds.
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

    /// The votes for a row with this influence on the seeds.
    pub fn votes(&self, influence: &[f32]) -> u32 {
        match self {
            Voters::Seeds => influence.iter().filter(|&&x| x > 0.0).count() as u32,
            Voters::Tasks(tasks) => tasks.votes(influence),
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

    fn votes(&self, influence: &[f32]) -> u32 {
        let sum = |seeds: &Vec<usize>| seeds.iter().map(|&seed| f64::from(influence[seed])).sum::<f64>();
        self.seeds.iter().filter(|&seeds| sum(seeds) > 0.0).count() as u32
    }
}

/// The votes for a row, and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    pub votes: u32,
    pub score: f32,
}
