//! Loops of the methods of choosing that are too heavy for Python.

pub mod bids;
mod costs;
pub mod g2is;
pub mod self_filter;
pub mod tagcos;
#[cfg(test)]
mod tests;

pub use costs::Costs;

/// Chosen rows between two reports.
const REPORT: usize = 256;
