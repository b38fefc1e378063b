//! Exact neighbours: each pair of rows is compared.

use rayon::prelude::*;

use super::candidates::{first, Near};
use super::columns::ColumnBlock;
use super::graph::Graph;
use super::kernels::Kernels;
use crate::interrupt::{RowCount, Supervisor};
use crate::parallel::{in_order, thread_pool};
use crate::rows::units::{cosine, gather, valid_rows, Units};
use crate::rows::Source;
use crate::simd::Kernel;
use crate::{Error, Result};

/// The columns of a block take about this many bytes, as float32 and in the layout of the kernel. Tests use small
/// blocks, so that there are several.
const BLOCK_BYTES: usize = if cfg!(test) { 16 << 10 } else { 256 << 20 };

pub struct Options {
    pub k: usize,
    /// `None` means the fastest kernels of this machine. The kernel does not change the result.
    pub kernel: Option<Kernel>,
    /// 0 means as many threads as the machine has cores.
    pub n_threads: usize,
}

/// For each row of the source, the k nearest of all other valid rows.
pub fn exact(source: &Source, options: &Options, supervisor: &Supervisor) -> Result<Graph> {
    let valid = valid_rows(source, supervisor)?;
    let graph = exact_of(source, &valid, &valid, options, supervisor)?;
    Ok(if valid.len() == source.len() { graph } else { graph.scattered(&valid, source.len()) })
}

/// For each of `queries`, the k nearest of `columns`, [queries, k]. All of them are valid rows.
pub fn exact_of(
    source: &Source,
    queries: &[u64],
    columns: &[u64],
    options: &Options,
    supervisor: &Supervisor,
) -> Result<Graph> {
    let (k, dim) = (options.k, source.dim());
    check_k(k, columns.len())?;
    let kernels = Kernels::new(options.kernel, dim)?;
    let mut graph = Graph::empty(queries.len(), k);
    let at_once = (BLOCK_BYTES / (6 * dim)).max(k);
    let count = RowCount::new(queries.len() * columns.len().div_ceil(at_once), supervisor);
    thread_pool(options.n_threads)?.install(|| {
        for columns in columns.chunks(at_once) {
            let columns = ColumnBlock::new(&kernels, columns, gather(source, columns, supervisor)?, dim);
            let block = columns.block_rows();
            let lines = graph.neighbours.chunks_mut(block * k).zip(graph.cosines.chunks_mut(block * k));
            in_order(queries.chunks(block).zip(lines), |(queries, (neighbours, cosines))| {
                supervisor.check()?;
                let mut x = vec![0f32; queries.len() * dim];
                Units::new(source).read(queries, &mut x)?;
                columns.search(queries, &x, k, neighbours, cosines);
                count.add(queries.len());
                Ok(())
            })?;
        }
        Ok(graph)
    })
}

pub fn check_k(k: usize, n: usize) -> Result<()> {
    if k == 0 || k >= n {
        let others = n.saturating_sub(1);
        return Err(Error::input(format!("k: expected 1 to {others}, because a row has {others} others, got {k}")));
    }
    Ok(())
}

/// The k nearest of `row` among the `rows` for which `open` is true; fewer where there are fewer. The search reads all
/// of them, so it is for the few rows whose stored neighbours do not suffice.
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
    let steps: Vec<Result<Vec<Near>>> = rows
        .par_chunks(STEP)
        .map(|rows| {
            supervisor.check()?;
            let rows: Vec<u64> = rows.iter().copied().filter(|&r| r as u32 != row && open(r as u32)).collect();
            let mut others = vec![0f32; rows.len() * dim];
            Units::new(source).read(&rows, &mut others)?;
            let near = |(&row, other): (&u64, &[f32])| Near { cosine: cosine(&x, other), row: row as u32 };
            Ok(first(rows.iter().zip(others.chunks_exact(dim)).map(near).collect(), k))
        })
        .collect();
    let steps = steps.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(first(steps.concat(), k))
}
