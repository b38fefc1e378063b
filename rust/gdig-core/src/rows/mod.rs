//! Rows of an array or a store, on their way into a computation.

pub mod distances;
pub mod gather;
pub mod open_shards;
pub mod products;
pub mod readahead;
mod reader;
mod source;
pub mod units;

pub use reader::{Block, Reader, View};
pub use source::{RowSet, Source};
