//! k-means over more rows than fit in memory: Lloyd's algorithm on a training sample, from k-means++ or a given start.
//!
//! The result is the same to the last bit for any number of threads and any shard size:
//!
//! - The nearest centroid of a row depends on that row and the kernel alone (`simd`).
//! - Sums go over chunks of a fixed number of rows in float32 (`waves`, `tally`), and over the chunks in order in
//!   float64 (`partial`). Rows far from the origin lose an offset before, which the rows alone determine (`offset`).
//! - Every draw is a hash of (random state, row).

mod fit;
mod init;
mod label_files;
mod lloyd;
mod offset;
mod options;
mod partial;
mod peers;
mod predict;
mod resume_file;
mod sample;
// Open for the benches.
#[doc(hidden)]
pub mod tally;
#[cfg(test)]
mod tests;
mod update;
mod waves;

pub use fit::{fit, fit_with, help};
pub use label_files::damage::label_damage;
pub use label_files::read::{LabelFile, LabelFiles, LabelRows};
pub use label_files::write::write_labels;
pub use options::{Fitted, Init, Options};
pub use peers::Peers;
pub use predict::{predict, Model, INVALID};
