//! Rows of an array or a store, on their way into a computation.

mod buffer;
pub mod distances;
mod free_memory;
pub mod gather;
pub mod open_shards;
mod pages;
pub mod products;
pub mod readahead;
mod reader;
mod ring;
mod source;
pub mod units;

pub use reader::{Block, Reader, View};
pub use source::{RowSet, Source};
