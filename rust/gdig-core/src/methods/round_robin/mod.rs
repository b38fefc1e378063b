//! Round robin (arXiv 2503.01807): the seeds take turns, and each takes the free row with the largest entry in its column.
//! With tasks, the tasks take turns, and inside a task its seeds do.

#[cfg(test)]
mod tests;

use super::sorted_columns::{Options, SortedColumns};
use crate::interrupt::{Progress, Supervisor};
use crate::parallel::thread_pool;
use crate::sweep::Influence;
use crate::Result;

/// The picked rows, in the order of the turns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picked {
    pub rows: Vec<i64>,
    /// The seed that took each row.
    pub seeds: Vec<u32>,
    /// The place of each row in the order of that seed's column, from 1.
    pub ranks: Vec<u64>,
    /// The entry of each row in that column.
    pub values: Vec<f32>,
    /// The number of columns in which all valid rows are equal. They have no turn.
    pub flat: usize,
}

/// Pick valid rows up to the budget; fewer when fewer are valid. `tasks` has the seeds of each task. Memory grows with
/// the columns times the kept entries (`Options`), not with the rows.
pub fn round_robin(
    influence: &Influence,
    tasks: &[Vec<usize>],
    options: &Options,
    supervisor: &Supervisor,
) -> Result<Picked> {
    thread_pool(options.n_threads)?.install(|| pick(influence, tasks, options, supervisor))
}

fn pick(influence: &Influence, tasks: &[Vec<usize>], options: &Options, supervisor: &Supervisor) -> Result<Picked> {
    let (mut sorted, valid, moments) = SortedColumns::new(influence, options, supervisor)?;
    let is_flat = |seed: usize| !moments[seed].varies();
    let flat = (0..moments.len()).filter(|&seed| is_flat(seed)).count();
    // If no seed tells rows apart, all of them have their turns, and rows come in order.
    let has_turn = |seed: usize| flat == moments.len() || !is_flat(seed);
    let turns = tasks.iter().map(|seeds| seeds.iter().copied().filter(|&seed| has_turn(seed)).collect::<Vec<_>>());
    let turns: Vec<Vec<usize>> = turns.filter(|seeds| !seeds.is_empty()).collect();
    let total = options.budget.min(usize::try_from(valid).unwrap_or(usize::MAX));
    let mut picked = Picked { flat, ..Picked::default() };
    for turn in 0..total {
        supervisor.check()?;
        let (task, round) = (&turns[turn % turns.len()], turn / turns.len());
        let seed = task[round % task.len()];
        let head = sorted.head(seed)?.expect("a valid row remains, so every column has an entry");
        picked.rows.push(head.row as i64);
        picked.seeds.push(seed as u32);
        picked.ranks.push(head.rank);
        picked.values.push(head.value);
        sorted.take(head.row);
        if picked.rows.len().is_multiple_of(4096) {
            supervisor.report(Progress::Rows { done: picked.rows.len(), total });
        }
    }
    Ok(picked)
}
