//! TAGCOS (arXiv 2407.15235). Each cluster gives rows in proportion to its size. Orthogonal matching pursuit picks the
//! rows whose weighted sum comes nearest to the mean gradient of the cluster.

mod factor;
mod matching;
mod members;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Mutex;

use matching::matched;
pub use matching::{Matched, Matching};
use members::Members;

use crate::interrupt::{RowCount, Supervisor};
use crate::kmeans::{LabelFiles, LabelRows};
use crate::parallel::{in_order, thread_pool};
use crate::resample::{fill, sizes, Clusters, Population, Quotas, Row, Sizes};
use crate::rows::{RowSet, Source};
use crate::{Error, Result};

/// The rows that a cluster gives, and their weights.
type ClusterRows = (Vec<u64>, Matched);

pub struct Options {
    /// Rows to pick.
    pub budget: u64,
    /// The random seed of the order of clusters of one size.
    pub random_seed: u64,
    /// Scale each row to unit length.
    pub unit_normalize: bool,
    pub matching: Matching,
    /// 0 means as many threads as the machine has cores.
    pub n_threads: usize,
    /// The rows of a cluster that take no more bytes as float32 are held in memory. Otherwise each step reads them.
    pub held_bytes: usize,
    /// The most row numbers of 8 bytes in memory at once. A single cluster may have more.
    pub listed_rows: u64,
}

impl Options {
    pub fn new(budget: u64, random_seed: u64, unit_normalize: bool) -> Options {
        let matching = Matching { ridge: 1e-3, tolerance: 1e-4, most_weights: 4096 };
        Options {
            budget,
            random_seed,
            unit_normalize,
            matching,
            n_threads: 0,
            held_bytes: 256 << 20,
            listed_rows: 1 << 26,
        }
    }
}

/// The picked rows, with the clusters in turns by size (see `resample`). Each row has its weight. `matched` says
/// whether the pursuit picked the row; else it is one of the nearest to the mean, and its weight is 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picked {
    pub rows: Vec<i64>,
    pub weights: Vec<f64>,
    pub matched: Vec<bool>,
    /// The number of clusters that give rows.
    pub clusters: usize,
    /// The number of these clusters whose pursuit ended before the quota was filled.
    pub ended_early: usize,
    /// The mean over these clusters of the length of the residual, as a share of the length of the mean gradient.
    pub residual: f64,
}

/// The rows with a label that the mask of the store does not skip: their means and shares are those of the clusters.
struct EligibleRows<'a> {
    rows: LabelRows<'a>,
    mask: Option<&'a [u8]>,
}

impl Population for EligibleRows<'_> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn each(&self, span: Range<usize>, visit: &mut impl FnMut(Row)) -> Result<()> {
        self.rows.each(span, &mut |row| {
            if self.mask.is_none_or(|mask| mask[row.row as usize] != 0) {
                visit(row);
            }
        })
    }
}

/// Pick as many rows as the budget asks for, or all eligible rows that have a label. Memory holds the result, and for each
/// thread the rows of one cluster and the factor of its weights.
pub fn tagcos(source: &Source, labels: &LabelFiles, options: &Options, supervisor: &Supervisor) -> Result<Picked> {
    if labels.len() != source.len() {
        let (got, expected) = (labels.len(), source.len());
        return Err(Error::input(format!("labels of {got} rows: expected {expected}, one for each row")));
    }
    let mask = match source {
        Source::Store { store, .. } => store.mask(),
        Source::Array(_) => None,
    };
    if let Some(mask) = mask.filter(|mask| mask.len() != source.len()) {
        return Err(Error::input(format!("mask of {} rows: expected one for each row of the store", mask.len())));
    }
    let rows = LabelRows { files: labels, random_seed: options.random_seed, supervisor };
    let population = EligibleRows { rows, mask };
    let sizes = sizes(&population, supervisor)?;
    let clusters = Clusters::new(&sizes.labels, &sizes.counts, Quotas::Proportional, options.random_seed);
    let quotas = fill(&clusters, options.budget).quotas;
    let asked: Vec<usize> = (0..quotas.len()).filter(|&k| quotas[k] > 0).collect();
    let count = RowCount::new(quotas.iter().sum::<u64>() as usize, supervisor);
    let by_cluster: Mutex<Vec<Option<ClusterRows>>> = Mutex::new(vec![None; quotas.len()]);
    let pool = thread_pool(options.n_threads)?;
    for wave in waves(&asked, &sizes.counts, options.listed_rows) {
        let lists = listed(&population, &sizes, wave, supervisor)?;
        // The largest cluster goes first, so that no thread begins it when the others are done.
        let mut work: Vec<(usize, Vec<u64>)> = wave.iter().copied().zip(lists).collect();
        work.sort_by_key(|(k, list)| (Reverse(list.len()), *k));
        let match_cluster = |(k, list): (usize, Vec<u64>)| {
            let rows = RowSet { source, list: Some(&list), unit_normalize: options.unit_normalize };
            let members = Members::new(rows, options.held_bytes)?;
            let matched = matched(&members, quotas[k] as usize, &options.matching, supervisor)?;
            let rows = matched.order.iter().map(|&i| list[i]).collect();
            let n_rows = matched.order.len();
            by_cluster.lock().expect("no thread panics with the lock")[k] = Some((rows, matched));
            count.add(n_rows);
            Ok(())
        };
        pool.install(|| in_order(work.into_iter(), match_cluster))?;
    }
    Ok(in_turns(&clusters, &quotas, &asked, &by_cluster.into_inner().expect("no thread panics with the lock")))
}

/// Put the rows of all clusters in one order.
fn in_turns(clusters: &Clusters, quotas: &[u64], asked: &[usize], by_cluster: &[Option<ClusterRows>]) -> Picked {
    let rows_of = |(k, cluster): (usize, &Option<ClusterRows>)| {
        let rows = cluster.iter().flat_map(|(rows, _)| rows).enumerate();
        rows.map(|(i, &row)| Row { row, label: k, key: i as u64, cost: 0 }).collect()
    };
    let rows: Vec<Vec<Row>> = by_cluster.iter().enumerate().map(rows_of).collect();
    let mut picked = Picked { clusters: asked.len(), ..Picked::default() };
    for (_, row) in clusters.order_of(&rows, quotas) {
        let (_, matched) = by_cluster[row.label].as_ref().expect("a cluster that gives rows was asked");
        let weight = matched.weights.get(row.key as usize);
        picked.rows.push(row.row as i64);
        picked.weights.push(weight.copied().unwrap_or(0.0));
        picked.matched.push(weight.is_some());
    }
    let matched = || by_cluster.iter().flatten().map(|(_, matched)| matched);
    picked.ended_early = matched().filter(|matched| matched.weights.len() < matched.order.len()).count();
    picked.residual = matched().map(|matched| matched.residual).sum::<f64>() / asked.len().max(1) as f64;
    picked
}

/// The clusters in waves. A wave has at most `most` rows, or is a single cluster.
fn waves<'a>(asked: &'a [usize], counts: &'a [u64], most: u64) -> impl Iterator<Item = &'a [usize]> {
    let mut remaining = asked;
    std::iter::from_fn(move || {
        let mut rows = 0;
        let fits = |&&k: &&usize| {
            rows += counts[k];
            rows <= most
        };
        let n = remaining.iter().take_while(fits).count().max(1).min(remaining.len());
        let (wave, rest) = remaining.split_at(n);
        remaining = rest;
        (!wave.is_empty()).then_some(wave)
    })
}

/// The rows of each cluster of a wave, ascending. Takes one pass over the labels.
fn listed(population: &EligibleRows, sizes: &Sizes, wave: &[usize], supervisor: &Supervisor) -> Result<Vec<Vec<u64>>> {
    const STEP: usize = 1 << 20;
    let mut lists: Vec<Vec<u64>> = wave.iter().map(|&k| Vec::with_capacity(sizes.counts[k] as usize)).collect();
    for start in (0..population.len()).step_by(STEP) {
        supervisor.check()?;
        population.each(start..population.len().min(start + STEP), &mut |row| {
            // Clusters come by rising label, and so do those of a wave.
            if let Ok(place) = wave.binary_search_by_key(&row.label, |&k| sizes.labels[k]) {
                lists[place].push(row.row);
            }
        })?;
    }
    match lists.iter().zip(wave).all(|(list, &k)| list.len() as u64 == sizes.counts[k]) {
        true => Ok(lists),
        false => Err(Error::input("labels: changed while they were read; run again when nothing writes to them")),
    }
}
