//! The greedy selection of Self-Filter (arXiv 2402.12501). Each step picks the hardest open row. The row then lowers
//! the difficulty of its k nearest open neighbours, by gamma x its own difficulty x the square of the cosine.
//!
//! Difficulties count from the lowest difficulty of all valid rows. The outputs of a score net go through a softmax, so
//! a shift does not change their meaning. But a penalty in proportion to a difficulty needs a meaningful zero.
//!
//! A row with a difficulty below 0 after penalties lowers no neighbour, and neither does a cosine below 0. Otherwise
//! the penalty would be a bonus.
//!
//! Difficulties only fall, so an entry of the heap is never too low. An outdated entry goes back into the heap with its
//! present difficulty when it comes up.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::costs::Costs;
use super::REPORT;
use crate::interrupt::{Progress, Supervisor};
use crate::neighbours::{nearest_of, Graph, Near, NONE};
use crate::parallel::thread_pool;
use crate::rows::units::valid_rows;
use crate::rows::Source;
use crate::{Error, Limit, Result};

pub struct Options<'a> {
    /// The difficulty of each row; higher is harder. Those of invalid rows are not read.
    pub difficulty: &'a [f32],
    /// The number of neighbours that a picked row lowers.
    pub k: usize,
    pub gamma: f64,
    pub limit: Limit,
    /// The tokens of each row. Only `Limit::Tokens` needs them.
    pub tokens: Option<&'a [u32]>,
    /// 0 means as many threads as the machine has cores.
    pub n_threads: usize,
}

/// The picked rows, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picked {
    pub rows: Vec<i64>,
    /// The difficulty of each row above the lowest: before any penalty, and after the penalties before its pick.
    pub difficulty: Vec<f32>,
    pub penalised: Vec<f32>,
    /// The number of picked rows whose stored neighbours were too few, so that all rows were searched.
    pub searched: usize,
}

/// `graph` has at least k neighbours of each row of the source. If too many of them have been picked, all rows are
/// searched for the k nearest open ones. So the size of the graph does not change the result.
pub fn self_filter(source: &Source, graph: &Graph, options: &Options, supervisor: &Supervisor) -> Result<Picked> {
    let n = source.len();
    graph.check(n)?;
    let costs = Costs::new(options.limit, options.tokens, n)?;
    if options.difficulty.len() != n {
        let what = format!("difficulty: expected {n} numbers, one for each row, got {}", options.difficulty.len());
        return Err(Error::input(what));
    }
    if options.k == 0 || !(options.gamma >= 0.0 && options.gamma.is_finite()) {
        let (k, gamma) = (options.k, options.gamma);
        return Err(Error::input(format!("k, gamma: expected k >= 1 and a finite gamma >= 0, got {k} and {gamma}")));
    }
    let valid = valid_rows(source, supervisor)?;
    if let Some(&row) = valid.iter().find(|&&row| !options.difficulty[row as usize].is_finite()) {
        let got = options.difficulty[row as usize];
        return Err(Error::input(format!("difficulty of row {row}: expected a finite number, got {got}")));
    }
    thread_pool(options.n_threads)?.install(|| pick(source, graph, &valid, options, costs, supervisor))
}

fn pick(
    source: &Source,
    graph: &Graph,
    valid: &[u64],
    options: &Options,
    costs: Costs,
    supervisor: &Supervisor,
) -> Result<Picked> {
    let given = |row: usize| f64::from(options.difficulty[row]);
    let lowest = valid.iter().map(|&row| given(row as usize)).fold(f64::INFINITY, f64::min);
    let mut open = vec![false; source.len()];
    let mut now = vec![0f64; source.len()];
    for &row in valid {
        (open[row as usize], now[row as usize]) = (true, given(row as usize) - lowest);
    }
    let entry = |&row: &u64| Entry { difficulty: now[row as usize], row: row as u32 };
    let mut heap: BinaryHeap<Entry> = valid.iter().map(entry).collect();
    let (mut picked, mut spent) = (Picked::default(), 0);
    while let Some(entry) = heap.pop() {
        let row = entry.row as usize;
        if now[row] < entry.difficulty {
            heap.push(Entry { difficulty: now[row], ..entry });
            continue;
        }
        spent += costs.of(row);
        if spent > options.limit.amount() {
            break;
        }
        supervisor.check()?;
        open[row] = false;
        picked.rows.push(row as i64);
        picked.difficulty.push((given(row) - lowest) as f32);
        picked.penalised.push(now[row] as f32);
        if picked.rows.len().is_multiple_of(REPORT) {
            supervisor.report(Progress::Rows { done: picked.rows.len(), total: valid.len() });
        }
        let penalty = options.gamma * now[row];
        // The last row of the budget need not look for neighbours.
        if penalty > 0.0 && spent < options.limit.amount() {
            for near in neighbours(source, graph, valid, row, &open, options.k, &mut picked.searched, supervisor)? {
                now[near.row as usize] -= penalty * f64::from(near.cosine.max(0.0)).powi(2);
            }
        }
    }
    Ok(picked)
}

/// The k nearest open neighbours of `row`.
#[allow(clippy::too_many_arguments)] // All of them are looked at.
fn neighbours(
    source: &Source,
    graph: &Graph,
    valid: &[u64],
    row: usize,
    open: &[bool],
    k: usize,
    searched: &mut usize,
    supervisor: &Supervisor,
) -> Result<Vec<Near>> {
    let span = row * graph.k..(row + 1) * graph.k;
    let stored = graph.neighbours[span.clone()].iter().zip(&graph.cosines[span]);
    let stored = stored.take_while(|(&row, _)| row != NONE).map(|(&row, &cosine)| Near { cosine, row });
    let near: Vec<Near> = stored.filter(|near| open[near.row as usize]).take(k).collect();
    // A graph with all other rows holds no further neighbours to search for.
    if near.len() == k || graph.k + 1 >= valid.len() {
        return Ok(near);
    }
    *searched += 1;
    nearest_of(source, row as u32, valid, |row| open[row as usize], k, supervisor)
}

/// The hardest first, of equal ones the lower row.
#[derive(Clone, Copy, PartialEq)]
struct Entry {
    difficulty: f64,
    row: u32,
}

impl Eq for Entry {}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        self.difficulty.total_cmp(&other.difficulty).then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
