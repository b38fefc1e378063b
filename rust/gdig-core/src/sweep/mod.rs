//! The votes and the score of each row of a finished sweep, read from the shards of the sweep. Nothing is held for each
//! row of the pool.
//!
//! The votes of a row are the voters for whom its value exceeds their cut. A seed's value is the influence on it; a
//! task's value is the sum of the influence on its seeds. A cut is 0 or the mean of the pool. The score
//! of a row is a mean over the seeds (see [`Score`]) of the influence less a baseline. A baseline is 0 or the mean of
//! the pool. The score is summed in float64 in the order of the seeds, and rounded once to float32.

mod best;
mod columns;
mod draw;
mod influence;
mod means;
mod score;
mod shard;
mod survey;
#[cfg(test)]
mod tests;
mod votes;

pub use best::{best, By};
pub use columns::{columns, Columns};
pub use draw::{Drawable, Order};
pub use influence::{Influence, MakeShard, SingleRows};
pub use means::seed_means;
pub use score::Score;
pub use shard::{SweepShard, View};
pub use survey::{survey, Survey};
pub use votes::{Judge, Judged, Tasks, Voters};

/// The rows that a thread takes at once. Sums go over these spans, so the number is fixed: the bits depend on it.
const SPAN: usize = 1 << 16;

/// The spans of `n` rows, in order.
fn spans(n: usize) -> impl Iterator<Item = std::ops::Range<usize>> + Send {
    (0..n).step_by(SPAN).map(move |start| start..n.min(start + SPAN))
}
