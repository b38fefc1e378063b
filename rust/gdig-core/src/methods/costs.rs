//! What rows take of a budget.

use crate::{Error, Result};

/// What rows cost: one each, or what an array says.
#[derive(Clone, Copy)]
pub struct Costs<'a>(pub Option<&'a [u32]>);

impl Costs<'_> {
    pub fn of(self, row: usize) -> u64 {
        self.0.map_or(1, |costs| u64::from(costs[row]))
    }

    pub fn check(self, n: usize) -> Result<()> {
        match self.0 {
            Some(costs) if costs.len() != n => {
                Err(Error::input(format!("costs: expected {n}, one for each row; got {}", costs.len())))
            }
            _ => Ok(()),
        }
    }
}
