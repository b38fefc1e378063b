//! The k nearest neighbours of rows by cosine.
//!
//! A cosine is the product of two rows, each scaled to unit length and rounded to float32, summed in float64 and
//! rounded to float32 (`rows::units`). Neighbours come by falling cosine, ties by row.
//!
//! A kernel only finds the columns that may be among the nearest, with a bound on its error (`scan`). Those candidates
//! are then compared exactly (`candidates`). A coarse kernel that lets in too many gives way to a finer one (`kernels`). So the result is the same to the last bit for any kernel, number of
//! threads, block and shard size.

#[cfg(target_arch = "x86_64")]
mod amx;
mod candidates;
mod clusters;
mod columns;
mod exact;
mod graph;
mod held;
mod int8;
mod kernels;
mod scan;
mod sift;
#[cfg(test)]
mod tests;

pub use candidates::Near;
pub use clusters::{approximate, Clusters};
pub use exact::{exact, nearest_of, Options};
pub use graph::{Graph, NONE};
pub use held::Held;
