//! The loops of the methods of selection that are too heavy for Python. Modules and functions have the names of the
//! methods in Python; each returns what it has `Picked`.

pub mod bids;
mod costs;
pub mod facility;
pub mod g2is;
pub mod gist;
pub mod round_robin;
pub mod self_filter;
pub mod sorted_columns;
pub mod tagcos;
#[cfg(test)]
mod tests;

/// Picked rows between two reports.
const REPORT: usize = 256;
