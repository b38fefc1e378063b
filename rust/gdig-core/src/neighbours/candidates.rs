//! The candidates of a row: the k nearest rows so far, and the rows that an approximate cosine does not rule out.

use std::cmp::Ordering;

use crate::rows::units::cosine;

/// A row, and its cosine to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    pub cosine: f32,
    pub row: u32,
}

impl Near {
    /// The order of neighbours: the nearest first, ties by row.
    pub fn order(a: &Near, b: &Near) -> Ordering {
        b.cosine.total_cmp(&a.cosine).then(a.row.cmp(&b.row))
    }
}

/// The rows to compare with: their numbers, and the rows at unit length, [len, dim].
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    pub rows: &'a [u32],
    pub x: &'a [f32],
}

/// The candidates of one row.
pub struct Candidates {
    row: u32,
    k: usize,
    /// The largest error of an approximate cosine.
    bound: f64,
    /// At most k neighbours, in order, with exact cosines.
    nearest: Vec<Near>,
    /// Columns that may be among the nearest, each with its approximate cosine.
    fresh: Vec<(f32, u32)>,
    /// Columns that were compared exactly, beyond k each time.
    beyond: usize,
}

impl Candidates {
    pub fn new(row: u32, k: usize, bound: f64, nearest: Vec<Near>) -> Candidates {
        Candidates { row, k, bound, nearest, fresh: Vec::new(), beyond: 0 }
    }

    /// No row with an approximate cosine below the threshold is among the nearest.
    pub fn threshold(&self) -> f32 {
        match self.nearest.len() == self.k {
            true => lower(f64::from(self.nearest[self.k - 1].cosine) - self.bound),
            false => f32::NEG_INFINITY,
        }
    }

    /// The most columns before they are sorted out.
    fn room(&self) -> usize {
        (4 * self.k).max(128)
    }

    /// Add a column whose approximate cosine has reached `threshold`. Raise the threshold when there are many columns.
    #[cold]
    pub fn push(&mut self, score: f32, column: usize, threshold: &mut f32, x: &[f32], columns: Columns) {
        // Columns beyond the last one fill up a panel.
        if column >= columns.rows.len() || columns.rows[column] == self.row {
            return;
        }
        self.fresh.push((score, column as u32));
        if self.fresh.len() < self.room() {
            return;
        }
        self.thin(threshold);
        if self.fresh.len() > self.room() / 2 {
            self.settle(x, columns);
            *threshold = threshold.max(self.threshold());
        }
    }

    /// Raise the threshold to what the columns allow, and drop those below it. There are at least k columns.
    fn thin(&mut self, threshold: &mut f32) {
        // k columns have at least the k-th approximate cosine less the bound. A column below that by more than the
        // bound is not among the k nearest.
        let (_, kth, _) = self.fresh.select_nth_unstable_by(self.k - 1, |a, b| b.0.total_cmp(&a.0));
        *threshold = threshold.max(lower(f64::from(kth.0) - 2.0 * self.bound));
        self.fresh.retain(|fresh| fresh.0 >= *threshold);
    }

    /// Compute the exact cosines of the columns, and keep the k nearest.
    pub fn settle(&mut self, x: &[f32], columns: Columns) {
        let dim = x.len();
        if self.fresh.len() > self.k {
            let mut threshold = self.threshold();
            self.thin(&mut threshold);
        }
        self.beyond += self.fresh.len().saturating_sub(self.k);
        for (_, column) in self.fresh.drain(..) {
            let column = column as usize;
            let cosine = cosine(x, &columns.x[column * dim..][..dim]);
            self.nearest.push(Near { cosine, row: columns.rows[column] });
        }
        self.nearest.sort_unstable_by(Near::order);
        self.nearest.truncate(self.k);
    }

    /// The columns that were compared exactly, beyond k each time.
    pub fn beyond(&self) -> usize {
        self.beyond
    }

    pub fn nearest(&self) -> &[Near] {
        &self.nearest
    }
}

/// The float32 number below `x`, because rounding must not raise a threshold.
fn lower(x: f64) -> f32 {
    (x as f32).next_down()
}

/// The k nearest, in order.
pub fn first(mut near: Vec<Near>, k: usize) -> Vec<Near> {
    if near.len() > k {
        near.select_nth_unstable_by(k, Near::order);
        near.truncate(k);
    }
    near.sort_unstable_by(Near::order);
    near
}
