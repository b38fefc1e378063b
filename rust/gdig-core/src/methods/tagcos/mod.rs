//! TAGCOS (arXiv 2407.15235): each cluster gives rows in proportion to its size, those whose weighted sum comes nearest to
//! the cluster's mean gradient, by orthogonal matching pursuit.

mod factor;
mod matching;
mod members;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use matching::matched;
pub use matching::{Matched, Matching};
use members::Members;

use crate::interrupt::{Progress, Supervisor};
use crate::kmeans::{LabelFiles, LabelRows};
use crate::parallel::{in_order, thread_pool};
use crate::resample::{fill, sizes, Clusters, Population, Quotas, Row, Sizes};
use crate::rows::{RowSet, Source};
use crate::{Error, Result};

/// The rows of a cluster, and what was taken of them.
type Taken = (Vec<u64>, Matched);

pub struct Options {
    pub budget: u64,
    /// Of the order among clusters of one size.
    pub seed: u64,
    /// Scale rows to unit length.
    pub unit_normalize: bool,
    pub matching: Matching,
    /// 0: as many as the machine has.
    pub n_threads: usize,
    /// A cluster's rows are held in memory, as float32, where they take no more; else they are read in each step.
    pub held_bytes: usize,
    /// Row numbers that are held at once, of 8 bytes each, unless one cluster has more.
    pub listed_rows: u64,
}

impl Options {
    pub fn new(budget: u64, seed: u64, unit_normalize: bool) -> Options {
        let matching = Matching { ridge: 1e-3, tolerance: 1e-4, most_weights: 4096 };
        Options { budget, seed, unit_normalize, matching, n_threads: 0, held_bytes: 256 << 20, listed_rows: 1 << 26 }
    }
}

/// The rows taken, clusters in turns by size (see `resample`), and of each of them its weight, and whether the pursuit
/// took it (else it is one of the nearest to the mean, and its weight 0).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picked {
    pub rows: Vec<i64>,
    pub weights: Vec<f64>,
    pub matched: Vec<bool>,
    /// Clusters that were to give a row.
    pub clusters: usize,
    /// Those of them whose pursuit ended before that.
    pub ended_early: usize,
    /// Mean over them of the residual's length, as a share of the mean gradient's.
    pub residual: f64,
}

/// As many rows as the budget asks for, or all that have a label. Beside the result it holds, for each thread, one
/// cluster's rows and the factor of its weights.
pub fn tagcos(source: &Source, labels: &LabelFiles, options: &Options, supervisor: &Supervisor) -> Result<Picked> {
    if labels.len() != source.len() {
        let (got, expected) = (labels.len(), source.len());
        return Err(Error::input(format!("labels of {got} rows: expected {expected}, one for each row")));
    }
    let population = LabelRows { files: labels, seed: options.seed, supervisor };
    let sizes = sizes(&population, supervisor)?;
    let clusters = Clusters::new(&sizes.labels, &sizes.counts, Quotas::Proportional, options.seed);
    let quotas = fill(&clusters, options.budget).quotas;
    let asked: Vec<usize> = (0..quotas.len()).filter(|&k| quotas[k] > 0).collect();
    let (done, total) = (AtomicUsize::new(0), quotas.iter().sum::<u64>() as usize);
    let found: Mutex<Vec<Option<Taken>>> = Mutex::new(vec![None; quotas.len()]);
    let pool = thread_pool(options.n_threads)?;
    for wave in waves(&asked, &sizes.counts, options.listed_rows) {
        let lists = listed(&population, &sizes, wave, supervisor)?;
        // The largest first, so that none of them is begun when the others are done.
        let mut work: Vec<(usize, Vec<u64>)> = wave.iter().copied().zip(lists).collect();
        work.sort_by_key(|(k, list)| (Reverse(list.len()), *k));
        let one = |(k, list): (usize, Vec<u64>)| {
            let rows = RowSet { source, list: Some(&list), unit_normalize: options.unit_normalize };
            let members = Members::new(rows, options.held_bytes)?;
            let matched = matched(&members, quotas[k] as usize, &options.matching, supervisor)?;
            let rows = matched.order.iter().map(|&i| list[i]).collect();
            let done = done.fetch_add(matched.order.len(), Ordering::Relaxed) + matched.order.len();
            found.lock().expect("no thread panics with the lock")[k] = Some((rows, matched));
            supervisor.report(Progress::Rows { done, total });
            Ok(())
        };
        pool.install(|| in_order(work.into_iter(), one))?;
    }
    Ok(in_turns(&clusters, &quotas, &asked, &found.into_inner().expect("no thread panics with the lock")))
}

/// Put the clusters' rows in the order of all.
fn in_turns(clusters: &Clusters, quotas: &[u64], asked: &[usize], found: &[Option<(Vec<u64>, Matched)>]) -> Picked {
    let rows_of = |(k, found): (usize, &Option<(Vec<u64>, Matched)>)| {
        let rows = found.iter().flat_map(|(rows, _)| rows).enumerate();
        rows.map(|(i, &row)| Row { row, label: k, key: i as u64, cost: 0 }).collect()
    };
    let rows: Vec<Vec<Row>> = found.iter().enumerate().map(rows_of).collect();
    let mut picked = Picked { clusters: asked.len(), ..Picked::default() };
    for (_, row) in clusters.order_of(&rows, quotas) {
        let (_, matched) = found[row.label].as_ref().expect("a cluster that gives rows was asked");
        let weight = matched.weights.get(row.key as usize);
        picked.rows.push(row.row as i64);
        picked.weights.push(weight.copied().unwrap_or(0.0));
        picked.matched.push(weight.is_some());
    }
    let matched = || found.iter().flatten().map(|(_, matched)| matched);
    picked.ended_early = matched().filter(|matched| matched.weights.len() < matched.order.len()).count();
    picked.residual = matched().map(|matched| matched.residual).sum::<f64>() / asked.len().max(1) as f64;
    picked
}

/// Runs of clusters that have no more rows than that together, or are one.
fn waves<'a>(asked: &'a [usize], counts: &'a [u64], most: u64) -> impl Iterator<Item = &'a [usize]> {
    let mut left = asked;
    std::iter::from_fn(move || {
        let mut rows = 0;
        let fits = |&&k: &&usize| {
            rows += counts[k];
            rows <= most
        };
        let n = left.iter().take_while(fits).count().max(1).min(left.len());
        let (wave, rest) = left.split_at(n);
        left = rest;
        (!wave.is_empty()).then_some(wave)
    })
}

/// The rows of each of these clusters, ascending, in one pass over the labels.
fn listed(population: &LabelRows, sizes: &Sizes, wave: &[usize], supervisor: &Supervisor) -> Result<Vec<Vec<u64>>> {
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
        false => Err(Error::input("labels: changed while they were read")),
    }
}
