//! Rows to compare with, a block of them at a time.

use super::candidates::{Candidates, Columns, Near};
use super::graph::NONE;
use super::scan::Scan;
use crate::simd::Kernel;

/// A block of rows to compare with, laid out for a kernel.
pub struct ColumnBlock {
    rows: Vec<u32>,
    x: Vec<f32>,
    dim: usize,
    pub scan: Scan,
}

impl ColumnBlock {
    pub fn new(kernel: Kernel, rows: &[u64], x: Vec<f32>, dim: usize) -> ColumnBlock {
        let scan = Scan::new(kernel, &x, dim);
        ColumnBlock { rows: rows.iter().map(|&row| row as u32).collect(), x, dim, scan }
    }

    /// Merge these columns into the k nearest of each query so far. `x` is [queries, dim]. `neighbours` and `cosines`
    /// are [queries, k]; unused places hold `NONE`.
    pub fn search(&self, queries: &[u64], x: &[f32], k: usize, neighbours: &mut [u32], cosines: &mut [f32]) {
        let columns = Columns { rows: &self.rows, x: &self.x };
        let lines = neighbours.chunks(k).zip(cosines.chunks(k));
        let rows = queries.iter().zip(x.chunks_exact(self.dim)).zip(lines);
        let candidates = rows.map(|((&row, x), (neighbours, cosines))| {
            let so_far = neighbours.iter().zip(cosines).take_while(|(&row, _)| row != NONE);
            let nearest = so_far.map(|(&row, &cosine)| Near { cosine, row }).collect();
            Candidates::new(row as u32, k, self.scan.bound(x), nearest)
        });
        let mut candidates: Vec<Candidates> = candidates.collect();
        self.scan.offer(x, columns, &mut candidates);
        let lines = neighbours.chunks_mut(k).zip(cosines.chunks_mut(k));
        for ((candidates, x), (neighbours, cosines)) in candidates.iter_mut().zip(x.chunks_exact(self.dim)).zip(lines) {
            candidates.settle(x, columns);
            for ((near, row), cosine) in candidates.nearest().iter().zip(neighbours).zip(cosines) {
                (*row, *cosine) = (near.row, near.cosine);
            }
        }
    }
}
