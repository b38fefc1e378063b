//! The other processes of a fit.
//!
//! The chunks whose sums are taken in float32 are the same as in one process. The processes take the waves of chunks in
//! turns. Rank 0 receives the sums of all chunks and adds them in order, so the bits are those of one process.

use crate::Result;

/// The processes of a fit, as one of them sees them. Rank 0 is in `fit_with`; the other ranks are in `help`.
pub trait Peers: Sync {
    fn rank(&self) -> usize;
    fn world(&self) -> usize;
    /// Rank 0: give all other processes the centroids [K, dim] of the next pass.
    fn give(&self, centroids: &[f32]) -> Result<()>;
    /// Other ranks: wait for the centroids of the next pass. `None` means that the fit has ended.
    fn take(&self) -> Result<Option<Vec<f32>>>;
    /// Other ranks: send these bytes to rank 0.
    fn send(&self, bytes: &[u8]) -> Result<()>;
    /// Rank 0: wait for `n_bytes` bytes from rank `from`.
    fn receive(&self, from: usize, n_bytes: usize) -> Result<Vec<u8>>;
}
