//! Labels and distances of rows on disk: a directory with a file for each shard of the rows. A file holds `labels` [n]
//! uint32 and `distances` [n] float32; its metadata hold the number of the first row and
//! a hash of the rows and the centroids.

pub mod damage;
mod fingerprint;
pub mod read;
pub mod write;

const LABELS: &str = "labels";
const DISTANCES: &str = "distances";
const FIRST_ROW: &str = "first_row";
/// How the kernel that made the labels rounds.
const ROUNDING: &str = "rounding";
