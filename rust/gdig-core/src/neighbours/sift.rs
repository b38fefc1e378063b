//! What a kernel hands its scores to.

use super::candidates::{Candidates, Columns};

/// A block of rows, and what each lets in.
pub struct Sift<'a> {
    /// [candidates, dim].
    pub x: &'a [f32],
    pub dim: usize,
    pub columns: Columns<'a>,
    pub candidates: &'a mut [Candidates],
    /// Of each row.
    pub thresholds: &'a mut [f32],
}

impl Sift<'_> {
    /// Let in what of `scores`, those of row `i` and the columns from `first` on, reaches its threshold.
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
