//! The Cholesky factor of a matrix that grows and shrinks by one row and column at a time.

/// Lower triangular, row by row: row i has i + 1 numbers.
#[derive(Clone, Debug, Default)]
pub struct Factor {
    rows: Vec<Vec<f64>>,
}

/// A squared pivot below this share of the entry on the diagonal is rounding. Then the new row depends on the others.
const LEAST_PIVOT: f64 = 1e-12;

impl Factor {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Add a row and a column: `beside`, and the entry `diagonal`. False, and nothing changes, when the matrix would
    /// not be positive definite. O(len^2).
    pub fn push(&mut self, beside: &[f64], diagonal: f64) -> bool {
        let mut row = self.forward(beside);
        let pivot = row.iter().fold(diagonal, |rest, x| rest - x * x);
        if pivot <= LEAST_PIVOT * diagonal || pivot.is_nan() {
            return false;
        }
        row.push(pivot.sqrt());
        self.rows.push(row);
        true
    }

    /// Remove row and column `i`. The rows below then have one number beyond the diagonal; rotations of neighbouring
    /// columns bring it to 0. O((len - i) len).
    pub fn remove(&mut self, i: usize) {
        self.rows.remove(i);
        for column in i..self.rows.len() {
            let (a, b) = (self.rows[column][column], self.rows[column][column + 1]);
            let length = a.hypot(b);
            let (cos, sin) = (a / length, b / length);
            for row in &mut self.rows[column..] {
                let (x, y) = (row[column], row[column + 1]);
                (row[column], row[column + 1]) = (cos * x + sin * y, cos * y - sin * x);
            }
        }
        for (column, row) in self.rows.iter_mut().enumerate().skip(i) {
            row.truncate(column + 1);
        }
    }

    /// The solution x of (L L^T) x = b. O(len^2).
    pub fn solve(&self, b: &[f64]) -> Vec<f64> {
        let mut x = self.forward(b);
        for (i, row) in self.rows.iter().enumerate().rev() {
            x[i] /= row[i];
            let value = x[i];
            x[..i].iter_mut().zip(row).for_each(|(x, l)| *x -= l * value);
        }
        x
    }

    /// The solution x of L x = b.
    fn forward(&self, b: &[f64]) -> Vec<f64> {
        debug_assert_eq!(b.len(), self.rows.len());
        let mut x: Vec<f64> = Vec::with_capacity(b.len() + 1);
        for (row, &b) in self.rows.iter().zip(b) {
            let rest = row.iter().zip(&x).fold(b, |rest, (l, x)| rest - l * x);
            x.push(rest / row[x.len()]);
        }
        x
    }
}
