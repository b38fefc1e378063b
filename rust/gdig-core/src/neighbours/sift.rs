//! The receiver of the scores of a kernel.

use super::candidates::{Candidates, Columns};

/// A block of rows, and the candidates of each.
pub struct Sift<'a> {
    /// [candidates, dim].
    pub x: &'a [f32],
    pub dim: usize,
    pub columns: Columns<'a>,
    pub candidates: &'a mut [Candidates],
    /// The threshold of each row.
    pub thresholds: &'a mut [f32],
}

impl Sift<'_> {
    /// Add the columns whose scores reach the threshold of row `i`. `scores` has the columns from `first` on.
    #[cold]
    #[inline(never)]
    pub fn take(&mut self, i: usize, first: usize, scores: &[f32]) {
        let x = &self.x[i * self.dim..][..self.dim];
        for (lane, &score) in scores.iter().enumerate() {
            if score >= self.thresholds[i] {
                self.candidates[i].push(score, first + lane, &mut self.thresholds[i], x, self.columns);
            }
        }
    }
}
