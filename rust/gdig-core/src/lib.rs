//! The native core of gdig: sharded tensor stores, k-means that streams them, and resampling. It knows no Python.

#[cfg(target_endian = "big")]
compile_error!("safetensors are little-endian, and this crate maps them without swapping bytes");

pub mod dtype;
pub mod error;
pub mod hash;
pub mod interrupt;
pub mod kmeans;
mod parallel;
pub mod resample;
pub mod rows;
pub mod store;
pub mod strategies;
pub mod verdicts;

pub use dtype::Dtype;
pub use error::{Error, Result};
