//! Approximate neighbours: a row is compared only with the rows of the clusters near its own cluster.

use super::candidates::{first, Near};
use super::columns::ColumnBlock;
use super::exact::{check_k, exact_of, Options};
use super::graph::{Graph, NONE};
use super::kernels::Kernels;
use crate::hash::derive;
use crate::interrupt::{RowCount, Supervisor};
use crate::parallel::{in_order, thread_pool};
use crate::resample::bottom_k;
use crate::rows::units::{cosine, scale, valid_rows, Units};
use crate::rows::Source;
use crate::{Error, Result};

/// The columns that a task compares with at once.
const BLOCK_ROWS: usize = if cfg!(test) { 50 } else { 8192 };

/// A clustering of the rows of a source.
pub struct Clusters<'a> {
    /// The cluster of each row. A row with another number is in no cluster, and no neighbour of any row.
    pub labels: &'a [u32],
    /// [K, dim].
    pub centroids: &'a [f32],
    /// The number of clusters to search: the own cluster of a row, and those whose centroids have the highest cosine to
    /// its centroid. More clusters are searched where these hold fewer than k other rows.
    pub n_probe: usize,
}

/// For each row, its k nearest rows in `clusters.n_probe` clusters; and the recall of the first 1 to k neighbours. The
/// recall is measured on `sample` rows, drawn by a hash: the share of their neighbours that are as near as the exact
/// ones. It is 1 where `sample` is 0.
pub fn approximate(
    source: &Source,
    clusters: &Clusters,
    options: &Options,
    sample: usize,
    random_seed: u64,
    supervisor: &Supervisor,
) -> Result<(Graph, Vec<f64>)> {
    let members = members(source, clusters, supervisor)?;
    let all: Vec<u64> = members.concat();
    check_k(options.k, all.len())?;
    let probes = probes(&members, clusters, source.dim(), options.k);
    let graph = search(source, &members, &probes, options, supervisor)?.scattered(&all, source.len());
    let recall = recall(source, &graph, all, options, sample, random_seed, supervisor)?;
    Ok((graph, recall))
}

/// The valid rows of each cluster, ascending.
fn members(source: &Source, clusters: &Clusters, supervisor: &Supervisor) -> Result<Vec<Vec<u64>>> {
    let (dim, k) = (source.dim(), clusters.centroids.len() / source.dim());
    if clusters.labels.len() != source.len() {
        let what = format!("labels: expected {}, one for each row, got {}", source.len(), clusters.labels.len());
        return Err(Error::input(what));
    }
    if k == 0 || clusters.centroids.len() != k * dim || clusters.centroids.iter().any(|c| !c.is_finite()) {
        let got = clusters.centroids.len();
        return Err(Error::input(format!(
            "rows have {dim} columns: expected finite centroids [K, {dim}], got {got} numbers"
        )));
    }
    if clusters.n_probe == 0 {
        return Err(Error::input("n_probe: expected at least 1, got 0"));
    }
    let mut members = vec![Vec::new(); k];
    for row in valid_rows(source, supervisor)? {
        if let Some(members) = members.get_mut(clusters.labels[row as usize] as usize) {
            members.push(row);
        }
    }
    Ok(members)
}

/// The rows to compare those of each cluster with, ascending.
fn probes<'a>(members: &'a [Vec<u64>], clusters: &Clusters, dim: usize, k: usize) -> Vec<Vec<&'a [u64]>> {
    let mut units = clusters.centroids.to_vec();
    units.chunks_exact_mut(dim).for_each(scale);
    let probes = |own: usize| {
        let near = units.chunks_exact(dim).enumerate().map(|(other, x)| {
            // The own cluster of a row comes first, whatever the rounding.
            let cosine = if other == own { f32::INFINITY } else { cosine(&units[own * dim..][..dim], x) };
            Near { cosine, row: other as u32 }
        });
        let mut rows = 0;
        let in_order = first(near.collect(), members.len()).into_iter().enumerate();
        let taken = in_order.map_while(|(number, near)| {
            let more = number < clusters.n_probe || rows <= k;
            rows += members[near.row as usize].len();
            more.then(|| &members[near.row as usize][..])
        });
        taken.collect()
    };
    (0..members.len()).map(probes).collect()
}

/// A graph whose lines are in the order of the clusters.
fn search(
    source: &Source,
    members: &[Vec<u64>],
    probes: &[Vec<&[u64]>],
    options: &Options,
    supervisor: &Supervisor,
) -> Result<Graph> {
    let (k, dim) = (options.k, source.dim());
    let (kernels, n) = (Kernels::new(options.kernel, dim)?, members.iter().map(Vec::len).sum());
    let mut graph = Graph::empty(n, k);
    let count = RowCount::new(n, supervisor);
    let (mut neighbours, mut cosines) = (&mut graph.neighbours[..], &mut graph.cosines[..]);
    let mut tasks = Vec::with_capacity(members.len());
    for (members, probes) in members.iter().zip(probes) {
        let (own_neighbours, own_cosines);
        (own_neighbours, neighbours) = neighbours.split_at_mut(members.len() * k);
        (own_cosines, cosines) = cosines.split_at_mut(members.len() * k);
        tasks.push((members, probes, own_neighbours, own_cosines));
    }
    thread_pool(options.n_threads)?.install(|| {
        in_order(tasks.into_iter(), |(queries, probes, neighbours, cosines)| {
            let mut columns = probes.concat();
            columns.sort_unstable();
            let mut units = Units::new(source);
            for columns in columns.chunks(BLOCK_ROWS) {
                let mut x = vec![0f32; columns.len() * dim];
                units.read(columns, &mut x)?;
                let columns = ColumnBlock::new(&kernels, columns, x, dim);
                let block = columns.block_rows();
                let lines = neighbours.chunks_mut(block * k).zip(cosines.chunks_mut(block * k));
                for (queries, (neighbours, cosines)) in queries.chunks(block).zip(lines) {
                    supervisor.check()?;
                    let mut x = vec![0f32; queries.len() * dim];
                    units.read(queries, &mut x)?;
                    columns.search(queries, &x, k, neighbours, cosines);
                }
            }
            count.add(queries.len());
            Ok(())
        })
    })?;
    Ok(graph)
}

/// The recall of the first 1 to k neighbours, on a sample of `rows`.
fn recall(
    source: &Source,
    graph: &Graph,
    mut rows: Vec<u64>,
    options: &Options,
    sample: usize,
    random_seed: u64,
    supervisor: &Supervisor,
) -> Result<Vec<f64>> {
    let k = options.k;
    if sample == 0 {
        return Ok(vec![1.0; k]);
    }
    rows.sort_unstable();
    let positions = bottom_k(0..rows.len() as u64, sample.min(rows.len()), derive(random_seed, "recall"), supervisor)?;
    let queries: Vec<u64> = positions.into_iter().map(|position| rows[position as usize]).collect();
    let truth = exact_of(source, &queries, &rows, options, supervisor)?;
    let of_first = |first: usize| {
        let reached = queries.iter().zip(truth.cosines.chunks(k)).map(|(&row, truth)| {
            let here = row as usize * k..row as usize * k + first;
            let lines = graph.neighbours[here.clone()].iter().zip(&graph.cosines[here]);
            lines.filter(|(&n, &cosine)| n != NONE && cosine >= truth[first - 1]).count()
        });
        reached.sum::<usize>() as f64 / (first * queries.len()) as f64
    };
    Ok((1..=k).map(of_first).collect())
}
