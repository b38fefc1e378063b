//! What rows take of a limit.

use crate::{Error, Limit, Result};

/// What a row costs: 1, or its tokens.
#[derive(Clone, Copy)]
pub struct Costs<'a>(Option<&'a [u32]>);

impl<'a> Costs<'a> {
    /// `tokens` has a number for each of `n` rows; only `Limit::Tokens` needs it.
    pub fn new(limit: Limit, tokens: Option<&'a [u32]>, n: usize) -> Result<Costs<'a>> {
        match (limit, tokens) {
            (Limit::Rows(_), _) => Ok(Costs(None)),
            (Limit::Tokens(_), Some(tokens)) if tokens.len() == n => Ok(Costs(Some(tokens))),
            (Limit::Tokens(_), tokens) => {
                let got = tokens.map_or("none".to_owned(), |tokens| tokens.len().to_string());
                Err(Error::input(format!("tokens: expected {n} numbers, one for each row, got {got}")))
            }
        }
    }

    pub fn of(self, row: usize) -> u64 {
        self.0.map_or(1, |tokens| u64::from(tokens[row]))
    }
}
