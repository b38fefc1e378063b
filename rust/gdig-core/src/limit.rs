//! How much a selection may take.

/// A number of rows, or a sum of what the rows cost (tokens, as a rule).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Rows(u64),
    Tokens(u64),
}

impl Limit {
    /// The limit in this unit, "rows" or "tokens".
    pub fn new(unit: &str, amount: u64) -> Option<Limit> {
        match unit {
            "rows" => Some(Limit::Rows(amount)),
            "tokens" => Some(Limit::Tokens(amount)),
            _ => None,
        }
    }

    pub fn amount(self) -> u64 {
        match self {
            Limit::Rows(amount) | Limit::Tokens(amount) => amount,
        }
    }
}
