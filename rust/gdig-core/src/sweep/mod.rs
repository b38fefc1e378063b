//! What the seeds say of the rows of a finished sweep, read from its shards: nothing is held for each row of the pool.
//!
//! A row's votes are the seeds that it helps (influence > 0), or the tasks (mean influence on their seeds > 0); its score
//! is a mean over the seeds (see [`Score`]): summed in float64 in the order of the seeds, rounded once to float32.

mod best;
mod columns;
mod draw;
mod influence;
mod score;
mod shard;
mod survey;
#[cfg(test)]
mod tests;
mod votes;

pub use best::{best, By};
pub use columns::{columns, Columns};
pub use draw::Drawable;
pub use influence::{Influence, SingleRows};
pub use score::Score;
pub use shard::{SweepShard, View};
pub use survey::{survey, Survey};
pub use votes::{Judge, Tasks, Verdict, Voters};

/// Rows that a thread takes at once. Sums go over these spans, so it is fixed: their bits depend on it.
const SPAN: usize = 1 << 16;

/// Spans of `n` rows, in order.
fn spans(n: usize) -> impl Iterator<Item = std::ops::Range<usize>> + Send {
    (0..n).step_by(SPAN).map(move |start| start..n.min(start + SPAN))
}
