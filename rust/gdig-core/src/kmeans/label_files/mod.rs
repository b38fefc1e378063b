//! Labels and distances of rows on disk: a directory with a file for each shard of the rows. A file holds `labels` [n]
//! uint32 and `distances` [n] float32; its metadata name the first row, and what the file was made from.

pub mod read;
pub mod write;

const LABELS: &str = "labels";
const DISTANCES: &str = "distances";
const FIRST_ROW: &str = "first_row";
