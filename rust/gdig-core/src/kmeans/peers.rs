//! Several processes that add up the rows of one fit.
//!
//! The chunks whose sums are taken in float32 are the same as in one process. They come in waves, which are dealt out in
//! turns; the first process gets the sums of all chunks and adds them up in their order. So the bits are those of one.

use crate::Result;

/// The processes of one fit, as one of them sees them: `rank` 0 is in `fit_with`, the peers are in `help`.
pub trait Peers: Sync {
    fn rank(&self) -> usize;
    fn world(&self) -> usize;
    /// Rank 0: give all peers the centroids [K, dim] of the next pass.
    fn give(&self, centroids: &[f32]) -> Result<()>;
    /// Peers: wait for the centroids of the next pass; `None` when there is none.
    fn take(&self) -> Result<Option<Vec<f32>>>;
    /// Peers: send this to rank 0.
    fn send(&self, bytes: &[u8]) -> Result<()>;
    /// Rank 0: wait for so many bytes from another one.
    fn receive(&self, from: usize, n_bytes: usize) -> Result<Vec<u8>>;
}
