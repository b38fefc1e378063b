//! Rows to compare with, a block of them at a time.

use std::sync::OnceLock;

use super::candidates::{Candidates, Columns, Near};
use super::graph::NONE;
use super::kernels::Kernels;
use super::scan::Scan;

/// A block of rows to compare with, laid out for the kernels that come to use it.
pub struct ColumnBlock<'a> {
    kernels: &'a Kernels,
    rows: Vec<u32>,
    x: Vec<f32>,
    dim: usize,
    /// Of each kernel of the list.
    scans: Vec<OnceLock<Scan>>,
}

impl<'a> ColumnBlock<'a> {
    pub fn new(kernels: &'a Kernels, rows: &[u64], x: Vec<f32>, dim: usize) -> ColumnBlock<'a> {
        let scans = kernels.list().iter().map(|_| OnceLock::new()).collect();
        ColumnBlock { kernels, rows: rows.iter().map(|&row| row as u32).collect(), x, dim, scans }
    }

    /// The layout for the kernel at `place` of the list.
    fn scan(&self, place: usize) -> &Scan {
        self.scans[place].get_or_init(|| Scan::new(self.kernels.list()[place], &self.x, self.dim))
    }

    /// The rows to search for at once.
    pub fn block_rows(&self) -> usize {
        self.scan(self.kernels.current()).block_rows()
    }

    /// Merge these columns into the k nearest of each query so far. `x` is [queries, dim]. `neighbours` and `cosines`
    /// are [queries, k]; unused places hold `NONE`.
    pub fn search(&self, queries: &[u64], x: &[f32], k: usize, neighbours: &mut [u32], cosines: &mut [f32]) {
        let columns = Columns { rows: &self.rows, x: &self.x };
        let place = self.kernels.current();
        let scan = self.scan(place);
        let lines = neighbours.chunks(k).zip(cosines.chunks(k));
        let rows = queries.iter().zip(x.chunks_exact(self.dim)).zip(lines);
        let candidates = rows.map(|((&row, x), (neighbours, cosines))| {
            let so_far = neighbours.iter().zip(cosines).take_while(|(&row, _)| row != NONE);
            let nearest = so_far.map(|(&row, &cosine)| Near { cosine, row }).collect();
            Candidates::new(row as u32, k, scan.bound(x), nearest)
        });
        let mut candidates: Vec<Candidates> = candidates.collect();
        scan.offer(x, columns, &mut candidates);
        let lines = neighbours.chunks_mut(k).zip(cosines.chunks_mut(k));
        for ((candidates, x), (neighbours, cosines)) in candidates.iter_mut().zip(x.chunks_exact(self.dim)).zip(lines) {
            candidates.settle(x, columns);
            for ((near, row), cosine) in candidates.nearest().iter().zip(neighbours).zip(cosines) {
                (*row, *cosine) = (near.row, near.cosine);
            }
        }
        let beyond: usize = candidates.iter().map(Candidates::beyond).sum();
        self.kernels.count(place, (queries.len() * self.rows.len()) as u64, beyond as u64);
    }
}
