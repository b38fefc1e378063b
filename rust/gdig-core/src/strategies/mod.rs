//! Loops of the methods of choosing that are too heavy for Python.

pub mod bids;
pub mod influence;
pub mod neighbours;
pub mod penalty;
mod products;
pub mod pursuit;
#[cfg(test)]
mod tests;
pub mod walk;

use crate::{Error, Result};
use neighbours::{Graph, NONE};

/// Chosen rows between two reports.
const REPORT: usize = 256;

/// What rows cost: one each, or what an array says.
#[derive(Clone, Copy)]
pub struct Costs<'a>(pub Option<&'a [u32]>);

impl Costs<'_> {
    pub fn of(self, row: usize) -> u64 {
        self.0.map_or(1, |costs| u64::from(costs[row]))
    }

    fn check(self, n: usize) -> Result<()> {
        match self.0 {
            Some(costs) if costs.len() != n => {
                Err(Error::input(format!("costs: expected {n}, one for each row; got {}", costs.len())))
            }
            _ => Ok(()),
        }
    }
}

/// Is this a graph of `n` rows?
fn check_graph(graph: &Graph, n: usize) -> Result<()> {
    let (k, expected) = (graph.k, n.saturating_mul(graph.k));
    if k == 0 || graph.neighbours.len() != expected || graph.cosines.len() != expected {
        let got = graph.neighbours.len().checked_div(k).unwrap_or(0);
        return Err(Error::input(format!("neighbours of {got} rows: expected {n}, one line for each row")));
    }
    match graph.neighbours.iter().position(|&row| row != NONE && row as usize >= n) {
        None => Ok(()),
        Some(at) => {
            let got = graph.neighbours[at];
            Err(Error::input(format!("neighbours of row {}: expected rows below {n}, got {got}", at / k)))
        }
    }
}
