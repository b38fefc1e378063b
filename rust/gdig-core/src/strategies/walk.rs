//! The gradient walk of G2IS (arXiv 2502.11062, algorithm 1).
//!
//! For each direction K, of unit length: start at the free row with the highest cosine to K, if it is above 0. Then go,
//! again and again, to the nearest neighbour of the last row that is free and fits; if none of its neighbours does, to the
//! free row with the highest cosine to K that fits; if there is none, the walk has ended. A row g fits a set with the sum
//! s of its rows at unit length, if its cosine to none of the set is below 0, and cos(s + g, K) >= ratio cos(s, K).
//!
//! What a walk that has ended leaves of its share goes to the others, in proportion to their shares, until all have ended
//! or nothing is left. (The set of free rows only shrinks, so a walk that has ended could not go on later.)
//!
//! Nothing is computed twice: a row remembers how many of the set it has been compared with and the sum of these
//! products, which is s.g once all are there; one product below 0 and it is out for this direction. So a direction costs
//! at most (rows tried) x (rows chosen) products, and a row tried again only those with what was added since.

use super::neighbours::unit::{valid_rows, AnyUnit, Units};
use super::neighbours::{Graph, NONE};
use super::{check_graph, Costs, REPORT};
use crate::interrupt::{Progress, Supervisor};
use crate::kmeans::Source;
use crate::parallel::{in_order, thread_pool};
use crate::strategies::products::{dot, products};
use crate::{Error, Result};

pub struct Options<'a> {
    /// [V, dim], of unit length.
    pub directions: &'a [f64],
    /// Of each direction, not all 0.
    pub weights: &'a [f64],
    /// By how much a step may lower the cosine of the sum to the direction.
    pub ratio: f64,
    /// Sum of what the rows may cost.
    pub budget: u64,
    pub costs: Costs<'a>,
    /// 0: as many as the machine has.
    pub n_threads: usize,
}

/// Rows in the order in which they were reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Walked {
    pub rows: Vec<i64>,
    /// Of each: its direction, whether it is a neighbour of the row before it, and its cosine to the direction.
    pub directions: Vec<u32>,
    pub by_neighbour: Vec<u8>,
    pub cosines: Vec<f32>,
    /// Of each direction, whether its walk ended before its share was used up.
    pub ended: Vec<bool>,
}

pub fn walk(source: &Source, graph: &Graph, options: &Options, supervisor: &Supervisor) -> Result<Walked> {
    let (dim, n) = (source.dim(), source.len());
    check_graph(graph, n)?;
    options.costs.check(n)?;
    check_directions(options, dim)?;
    let valid = valid_rows(source, supervisor)?;
    thread_pool(options.n_threads)?.install(|| {
        let ground = Ground { source, units: AnyUnit::new(source)?, graph, valid, options, supervisor };
        let mut walks: Vec<Walk> = options.directions.chunks_exact(dim).map(Walk::new).collect();
        let (mut free, mut walked) = (vec![true; n], Walked::default());
        let mut left = options.budget;
        loop {
            let weights: Vec<f64> =
                walks.iter().zip(options.weights).map(|(w, &v)| if w.ended { 0.0 } else { v }).collect();
            if left == 0 || weights.iter().all(|&weight| weight == 0.0) {
                break;
            }
            walks.iter_mut().zip(shares(left, &weights)).for_each(|(walk, share)| walk.share += share);
            let mut someone_ended = false;
            for (number, walk) in walks.iter_mut().enumerate().filter(|(_, walk)| !walk.ended && walk.share > 0) {
                walk.go(number as u32, &ground, &mut free, &mut walked)?;
                someone_ended |= walk.ended;
            }
            // A walk that has not ended holds on to what is left of its share, too little for its next row.
            left = walks.iter_mut().filter(|walk| walk.ended).map(|walk| std::mem::take(&mut walk.share)).sum();
            if !someone_ended {
                break;
            }
        }
        walked.ended = walks.iter().map(|walk| walk.ended).collect();
        Ok(walked)
    })
}

fn check_directions(options: &Options, dim: usize) -> Result<()> {
    let (n, weights) = (options.directions.len() / dim, options.weights);
    let unit = |k: &[f64]| (k.iter().map(|k| k * k).sum::<f64>() - 1.0).abs() < 1e-6;
    if n == 0 || n * dim != options.directions.len() || !options.directions.chunks_exact(dim).all(unit) {
        return Err(Error::input(format!(
            "directions: expected unit vectors [V, {dim}], as the rows have {dim} columns"
        )));
    }
    let sound = weights.len() == n && weights.iter().all(|&w| w >= 0.0) && weights.iter().sum::<f64>() > 0.0;
    if !sound || !weights.iter().sum::<f64>().is_finite() {
        return Err(Error::input(format!("weights: expected {n} numbers of at least 0, not all 0; got {weights:?}")));
    }
    if !(0.0..=1.0).contains(&options.ratio) {
        return Err(Error::input(format!("ratio: expected 0 to 1, got {}", options.ratio)));
    }
    Ok(())
}

/// `budget` in proportion to `weights`, rounded down; what that leaves goes to the largest remainders, of equal ones to the
/// first.
pub fn shares(budget: u64, weights: &[f64]) -> Vec<u64> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| budget as f64 * (weight / sum)).collect();
    let mut shares: Vec<u64> = exact.iter().map(|share| share.floor() as u64).collect();
    let mut order: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] > 0.0).collect();
    order.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()));
    let left = budget.saturating_sub(shares.iter().sum());
    order.iter().cycle().take(left as usize).for_each(|&i| shares[i] += 1);
    shares
}

/// What all walks share.
struct Ground<'a> {
    source: &'a Source<'a>,
    units: AnyUnit<'a>,
    graph: &'a Graph,
    valid: Vec<u64>,
    options: &'a Options<'a>,
    supervisor: &'a Supervisor<'a>,
}

/// The walk along one direction.
struct Walk<'a> {
    direction: &'a [f64],
    /// What it may still spend.
    share: u64,
    ended: bool,
    last: Option<usize>,
    /// Its rows at unit length, [chosen, dim].
    chosen: Vec<f32>,
    /// s.K and s.s.
    along: f64,
    squared: f64,
}

/// More is out for this direction.
const OUT: u32 = u32::MAX;

/// What one walk knows of the rows. Made anew when a walk goes on, so that it is there once, not for each direction.
struct Known {
    /// g.K of each row; NaN for one that is invalid or zero.
    along: Vec<f64>,
    /// How many of the chosen it has been compared with, or `OUT`, and the sum of the products.
    compared: Vec<u32>,
    products: Vec<f64>,
    /// Rows by falling g.K, ties by row, as a chain from which those that can no longer be chosen are taken.
    chain: Vec<u32>,
    head: u32,
    x: Vec<f32>,
}

impl<'a> Walk<'a> {
    fn new(direction: &'a [f64]) -> Walk<'a> {
        Walk { direction, share: 0, ended: false, last: None, chosen: Vec::new(), along: 0.0, squared: 0.0 }
    }

    /// Spend the share, or come to an end.
    fn go(&mut self, number: u32, ground: &Ground, free: &mut [bool], walked: &mut Walked) -> Result<()> {
        let mut known = Known::new(ground, self.direction, free)?;
        loop {
            ground.supervisor.check()?;
            let near = match self.last {
                None => None,
                Some(last) => {
                    let k = ground.graph.k;
                    let near = ground.graph.neighbours[last * k..][..k].iter();
                    let mut near = near.take_while(|&&row| row != NONE).map(|&row| row as usize);
                    near.find(|&row| free[row] && self.fits(row, &mut known, ground))
                }
            };
            let Some(row) = near.or_else(|| self.along_the_chain(&mut known, ground, free)) else {
                self.ended = true;
                return Ok(());
            };
            let cost = ground.options.costs.of(row);
            if cost > self.share {
                return Ok(());
            }
            self.share -= cost;
            free[row] = false;
            self.squared += 2.0 * known.products[row] + 1.0;
            self.along += known.along[row];
            self.last = Some(row);
            let dim = self.direction.len();
            self.chosen.resize(self.chosen.len() + dim, 0.0);
            let at = self.chosen.len() - dim;
            ground.units.read(row, &mut self.chosen[at..]);
            walked.rows.push(row as i64);
            walked.directions.push(number);
            walked.by_neighbour.push(u8::from(near.is_some()));
            walked.cosines.push(known.along[row] as f32);
            if walked.rows.len().is_multiple_of(REPORT) {
                ground.supervisor.report(Progress::Rows { done: walked.rows.len(), total: ground.valid.len() });
            }
            if self.share == 0 {
                return Ok(());
            }
        }
    }

    /// The first row of the chain that is free and fits.
    fn along_the_chain(&self, known: &mut Known, ground: &Ground, free: &[bool]) -> Option<usize> {
        let (mut before, mut at) = (NONE, known.head);
        while at != NONE {
            let (row, next) = (at as usize, known.chain[at as usize]);
            if self.last.is_none() && known.along[row] <= 0.0 {
                return None;
            }
            if free[row] && self.fits(row, known, ground) {
                return Some(row);
            }
            if !free[row] || known.compared[row] == OUT {
                match before {
                    NONE => known.head = next,
                    before => known.chain[before as usize] = next,
                }
            } else {
                before = at;
            }
            at = next;
        }
        None
    }

    /// May `row` be added?
    fn fits(&self, row: usize, known: &mut Known, ground: &Ground) -> bool {
        if known.compared[row] == OUT || known.along[row].is_nan() {
            return false;
        }
        let dim = self.direction.len();
        let new = &self.chosen[known.compared[row] as usize * dim..];
        if !new.is_empty() {
            ground.units.read(row, &mut known.x);
            for chosen in new.chunks_exact(dim) {
                let product = dot(chosen, &known.x);
                if product < 0.0 {
                    known.compared[row] = OUT;
                    return false;
                }
                known.products[row] += product;
            }
            known.compared[row] = (self.chosen.len() / dim) as u32;
        }
        if self.last.is_none() {
            return true;
        }
        // A row has unit length.
        let squared = self.squared + 2.0 * known.products[row] + 1.0;
        (self.along + known.along[row]) / squared.sqrt() >= ground.options.ratio * (self.along / self.squared.sqrt())
    }
}

impl Known {
    fn new(ground: &Ground, direction: &[f64], free: &[bool]) -> Result<Known> {
        const STEP: usize = 2048;
        let (n, dim) = (free.len(), direction.len());
        let mut found = vec![f64::NAN; ground.valid.len()];
        in_order(ground.valid.chunks(STEP).zip(found.chunks_mut(STEP)), |(rows, found)| {
            ground.supervisor.check()?;
            let mut x = vec![0f32; rows.len() * dim];
            Units::new(ground.source).read(rows, &mut x)?;
            products(&x, direction, found);
            // A row of zeros has no direction.
            let nothing = found.iter_mut().zip(x.chunks_exact(dim)).filter(|(_, x)| x.iter().all(|&x| x == 0.0));
            nothing.for_each(|(found, _)| *found = f64::NAN);
            Ok(())
        })?;
        let mut along = vec![f64::NAN; n];
        ground.valid.iter().zip(&found).for_each(|(&row, &found)| along[row as usize] = found);
        let open = (0..n).filter(|&row| free[row] && !along[row].is_nan());
        let mut order: Vec<u32> = open.map(|row| row as u32).collect();
        order.sort_unstable_by(|&a, &b| along[b as usize].total_cmp(&along[a as usize]).then(a.cmp(&b)));
        let mut chain = vec![NONE; n];
        order.windows(2).for_each(|pair| chain[pair[0] as usize] = pair[1]);
        let head = order.first().copied().unwrap_or(NONE);
        Ok(Known { along, compared: vec![0; n], products: vec![0.0; n], chain, head, x: vec![0.0; dim] })
    }
}
