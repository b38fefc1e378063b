//! A graph of neighbours.

use crate::{Error, Result};

/// The mark of a missing neighbour.
pub const NONE: u32 = u32::MAX;

/// Neighbours [rows, k] and their cosines. An invalid row, and a place without a neighbour, has `NONE` and NaN.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub k: usize,
    pub neighbours: Vec<u32>,
    pub cosines: Vec<f32>,
}

impl Graph {
    pub fn empty(n: usize, k: usize) -> Graph {
        Graph { k, neighbours: vec![NONE; n * k], cosines: vec![f32::NAN; n * k] }
    }

    /// Move line i to line `to[i]` of `n`.
    pub fn scattered(self, to: &[u64], n: usize) -> Graph {
        let (k, mut all) = (self.k, Graph::empty(n, self.k));
        for (i, &to) in to.iter().enumerate() {
            let (from, to) = (i * k..(i + 1) * k, to as usize * k..(to as usize + 1) * k);
            all.neighbours[to.clone()].copy_from_slice(&self.neighbours[from.clone()]);
            all.cosines[to].copy_from_slice(&self.cosines[from]);
        }
        all
    }

    /// Check that this is a graph of `n` rows.
    pub fn check(&self, n: usize) -> Result<()> {
        let (k, expected) = (self.k, n.saturating_mul(self.k));
        if k == 0 || self.neighbours.len() != expected || self.cosines.len() != expected {
            let got = self.neighbours.len().checked_div(k).unwrap_or(0);
            return Err(Error::input(format!("neighbours of {got} rows: expected {n}, one line for each row")));
        }
        match self.neighbours.iter().position(|&row| row != NONE && row as usize >= n) {
            None => Ok(()),
            Some(at) => {
                let got = self.neighbours[at];
                Err(Error::input(format!("neighbours of row {}: expected rows below {n}, got {got}", at / k)))
            }
        }
    }
}
