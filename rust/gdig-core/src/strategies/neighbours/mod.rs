//! The k nearest neighbours of rows by cosine.
//!
//! A cosine is the product of two rows, each scaled to unit length and rounded to float32, summed in float64 and rounded
//! to float32 (`unit::cosine`). Neighbours come by falling cosine, ties by row. Kernels only find which columns may be
//! among the nearest, with a bound on their error (`scan`), and what they let in is compared exactly (`kept`). So the
//! result is the same to the last bit for any kernel, number of threads, block and shard size.

#[cfg(target_arch = "x86_64")]
mod amx;
mod clusters;
mod kept;
mod scan;
#[cfg(test)]
mod tests;
pub mod unit;

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

pub use clusters::{approximate, Clusters};
pub use kept::Near;

use crate::interrupt::{Progress, Supervisor};
use crate::kmeans::{Kernel, Source};
use crate::parallel::{in_order, thread_pool};
use crate::{Error, Result};
use kept::{Columns, Kept};
use scan::Scan;
use unit::{gather, valid_rows, Units};

/// In place of a neighbour where there is none.
pub const NONE: u32 = u32::MAX;

/// Columns held at once take about this many bytes, as float32 and as the kernel has them. In tests a few of them do, so
/// that there are several parts.
const HELD_BYTES: usize = if cfg!(test) { 16 << 10 } else { 256 << 20 };

pub struct Options {
    pub k: usize,
    /// `None`: the fastest of this machine. It does not change the result.
    pub kernel: Option<Kernel>,
    /// 0: as many as the machine has.
    pub n_threads: usize,
}

/// Neighbours [rows, k] and their cosines; `NONE` and NaN for a row that is invalid, and where there are no more.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub k: usize,
    pub neighbours: Vec<u32>,
    pub cosines: Vec<f32>,
}

impl Graph {
    fn empty(n: usize, k: usize) -> Graph {
        Graph { k, neighbours: vec![NONE; n * k], cosines: vec![f32::NAN; n * k] }
    }

    /// Move line i to line `to[i]` of `n`.
    fn scattered(self, to: &[u64], n: usize) -> Graph {
        let (k, mut all) = (self.k, Graph::empty(n, self.k));
        for (i, &to) in to.iter().enumerate() {
            let (from, to) = (i * k..(i + 1) * k, to as usize * k..(to as usize + 1) * k);
            all.neighbours[to.clone()].copy_from_slice(&self.neighbours[from.clone()]);
            all.cosines[to].copy_from_slice(&self.cosines[from]);
        }
        all
    }
}

/// The k nearest of all other valid rows, of each row of the source.
pub fn exact(source: &Source, options: &Options, supervisor: &Supervisor) -> Result<Graph> {
    let valid = valid_rows(source, supervisor)?;
    let found = exact_of(source, &valid, &valid, options, supervisor)?;
    Ok(if valid.len() == source.len() { found } else { found.scattered(&valid, source.len()) })
}

/// The k nearest among `columns` of each of `queries`, [queries, k]; all of them valid rows.
fn exact_of(
    source: &Source,
    queries: &[u64],
    columns: &[u64],
    options: &Options,
    supervisor: &Supervisor,
) -> Result<Graph> {
    let (k, dim) = (options.k, source.dim());
    check_k(k, columns.len())?;
    let kernel = Scan::kernel(options.kernel)?;
    let mut graph = Graph::empty(queries.len(), k);
    let held = (HELD_BYTES / (6 * dim)).max(k);
    let report = Report::new(queries.len() * columns.len().div_ceil(held), supervisor);
    thread_pool(options.n_threads)?.install(|| {
        for columns in columns.chunks(held) {
            let columns = Held::new(kernel, columns, gather(source, columns, supervisor)?, dim);
            let block = columns.scan.block_rows();
            let lines = graph.neighbours.chunks_mut(block * k).zip(graph.cosines.chunks_mut(block * k));
            in_order(queries.chunks(block).zip(lines), |(queries, (neighbours, cosines))| {
                supervisor.check()?;
                let mut x = vec![0f32; queries.len() * dim];
                Units::new(source).read(queries, &mut x)?;
                columns.search(queries, &x, k, neighbours, cosines);
                report.add(queries.len());
                Ok(())
            })?;
        }
        Ok(graph)
    })
}

fn check_k(k: usize, n: usize) -> Result<()> {
    if k == 0 || k >= n {
        let what = format!("k: expected 1 to {}, as a row has {} others", n.saturating_sub(1), n.saturating_sub(1));
        return Err(Error::input(format!("{what}; got {k}")));
    }
    Ok(())
}

/// Columns to compare with, laid out for a kernel.
struct Held {
    rows: Vec<u32>,
    x: Vec<f32>,
    dim: usize,
    scan: Scan,
}

impl Held {
    fn new(kernel: Kernel, rows: &[u64], x: Vec<f32>, dim: usize) -> Held {
        let scan = Scan::new(kernel, &x, dim);
        Held { rows: rows.iter().map(|&row| row as u32).collect(), x, dim, scan }
    }

    /// Let these columns into the k nearest of each query so far. `x` is [queries, dim], `neighbours` and `cosines`
    /// [queries, k], `NONE` behind those found.
    fn search(&self, queries: &[u64], x: &[f32], k: usize, neighbours: &mut [u32], cosines: &mut [f32]) {
        let columns = Columns { rows: &self.rows, x: &self.x };
        let lines = neighbours.chunks(k).zip(cosines.chunks(k));
        let rows = queries.iter().zip(x.chunks_exact(self.dim)).zip(lines);
        let kept = rows.map(|((&row, x), (neighbours, cosines))| {
            let found = neighbours.iter().zip(cosines).take_while(|(&row, _)| row != NONE);
            let nearest = found.map(|(&row, &cosine)| Near { cosine, row }).collect();
            Kept::new(row as u32, k, self.scan.bound(x), nearest)
        });
        let mut kept: Vec<Kept> = kept.collect();
        self.scan.offer(x, columns, &mut kept);
        let lines = neighbours.chunks_mut(k).zip(cosines.chunks_mut(k));
        for ((kept, x), (neighbours, cosines)) in kept.iter_mut().zip(x.chunks_exact(self.dim)).zip(lines) {
            kept.settle(x, columns);
            for ((near, row), cosine) in kept.nearest().iter().zip(neighbours).zip(cosines) {
                (*row, *cosine) = (near.row, near.cosine);
            }
        }
    }
}

/// Adds up what threads have done.
struct Report<'a> {
    done: AtomicUsize,
    total: usize,
    supervisor: &'a Supervisor<'a>,
}

impl<'a> Report<'a> {
    fn new(total: usize, supervisor: &'a Supervisor) -> Report<'a> {
        Report { done: AtomicUsize::new(0), total, supervisor }
    }

    fn add(&self, rows: usize) {
        let done = self.done.fetch_add(rows, Ordering::Relaxed) + rows;
        self.supervisor.report(Progress::Rows { done, total: self.total });
    }
}

/// The k nearest of `row`, at unit length `x`, among the rows of `rows` that `open` says yes to; fewer where there are
/// fewer. Reads all of them: for the few rows whose stored neighbours do not do.
pub fn nearest_of(
    source: &Source,
    row: u32,
    rows: &[u64],
    open: impl Fn(u32) -> bool + Sync,
    k: usize,
    supervisor: &Supervisor,
) -> Result<Vec<Near>> {
    const STEP: usize = 4096;
    let dim = source.dim();
    let mut x = vec![0f32; dim];
    Units::new(source).read(&[u64::from(row)], &mut x)?;
    let parts: Vec<Result<Vec<Near>>> = rows
        .par_chunks(STEP)
        .map(|rows| {
            supervisor.check()?;
            let rows: Vec<u64> = rows.iter().copied().filter(|&r| r as u32 != row && open(r as u32)).collect();
            let mut others = vec![0f32; rows.len() * dim];
            Units::new(source).read(&rows, &mut others)?;
            let near = |(&row, other): (&u64, &[f32])| Near { cosine: unit::cosine(&x, other), row: row as u32 };
            Ok(first(rows.iter().zip(others.chunks_exact(dim)).map(near).collect(), k))
        })
        .collect();
    let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(first(parts.concat(), k))
}

/// The first k in order.
fn first(mut near: Vec<Near>, k: usize) -> Vec<Near> {
    if near.len() > k {
        near.select_nth_unstable_by(k, Near::order);
        near.truncate(k);
    }
    near.sort_unstable_by(Near::order);
    near
}
