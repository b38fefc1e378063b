//! The native core of gdig: sharded tensor stores, k-means that streams them, and resampling. It knows no Python.
//!
//! # Layers
//!
//! A module uses itself and the modules above it in this list, and no other (`tests/layers.rs` checks it):
//!
//! 1. `dtype`: element types
//! 2. `error`: the one error type
//! 3. `limit`: how much a selection may take
//! 4. `hash`: the one source of randomness
//! 5. `interrupt`: work that can be stopped, and its progress
//! 6. `parallel`: work on several threads
//! 7. `convert`: rows of any stored type, to float32 and back
//! 8. `words`: the words of texts, and what two sets of texts share
//! 9. `simd`: the search for the nearest centroid, for each instruction set
//! 10. `store`: tensor files, and directories of them
//! 11. `rows`: rows of an array or a store, on their way into a computation
//! 12. `resample`: even draws from clusters
//! 13. `kmeans`: clusters of rows
//! 14. `sweep`: the votes and scores of the rows of a pool
//! 15. `neighbours`: the nearest neighbours of rows
//! 16. `methods`: the loops of the methods of selection

#[cfg(target_endian = "big")]
compile_error!("safetensors are little-endian, and this crate maps them without swapping bytes");

pub mod convert;
pub mod dtype;
pub mod error;
pub mod hash;
pub mod interrupt;
pub mod kmeans;
pub mod limit;
pub mod methods;
pub mod neighbours;
mod parallel;
pub mod resample;
pub mod rows;
pub mod simd;
pub mod store;
pub mod sweep;
#[cfg(test)]
mod testing;
pub mod words;

pub use dtype::Dtype;
pub use error::{Error, Result};
pub use limit::Limit;
