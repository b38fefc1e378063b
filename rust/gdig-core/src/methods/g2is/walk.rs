//! The walk along one direction.

use super::options::{Options, Picked};
use crate::interrupt::{Progress, Supervisor};
use crate::methods::costs::Costs;
use crate::methods::REPORT;
use crate::neighbours::{Graph, NONE};
use crate::parallel::in_order;
use crate::rows::products::{dot, products};
use crate::rows::units::{AnyUnit, Units};
use crate::rows::Source;
use crate::Result;

/// What all walks share.
pub struct Ground<'a> {
    pub source: &'a Source<'a>,
    pub units: AnyUnit<'a>,
    pub graph: &'a Graph,
    pub valid: Vec<u64>,
    pub options: &'a Options<'a>,
    pub costs: Costs<'a>,
    pub supervisor: &'a Supervisor<'a>,
}

/// The walk along one direction.
pub struct Walk<'a> {
    direction: &'a [f64],
    /// What the walk may still spend.
    pub share: u64,
    pub ended: bool,
    last: Option<usize>,
    /// The rows of the walk at unit length, [rows, dim].
    chosen: Vec<f32>,
    /// The products s.K and s.s.
    along: f64,
    squared: f64,
}

/// The mark of a row that is ruled out for this direction.
const OUT: u32 = u32::MAX;

/// The state of all rows in one walk. It is made anew when a walk goes on, so that memory holds one, not one for each
/// direction.
struct RowStates {
    /// g.K of each row; NaN for a row that is invalid or zero.
    along: Vec<f64>,
    /// For each row the number of rows of the walk that were compared with it, or `OUT`; and the sum of the products.
    compared: Vec<u32>,
    products: Vec<f64>,
    /// The rows by falling g.K, ties by row, as a chain. Rows that can no longer be picked leave the chain.
    chain: Vec<u32>,
    head: u32,
    x: Vec<f32>,
}

impl<'a> Walk<'a> {
    pub fn new(direction: &'a [f64]) -> Walk<'a> {
        Walk { direction, share: 0, ended: false, last: None, chosen: Vec::new(), along: 0.0, squared: 0.0 }
    }

    /// Walk until the share is spent, or no row fits.
    pub fn go(&mut self, number: u32, ground: &Ground, free: &mut [bool], picked: &mut Picked) -> Result<()> {
        let mut states = RowStates::new(ground, self.direction, free)?;
        loop {
            ground.supervisor.check()?;
            let near = match self.last {
                None => None,
                Some(last) => {
                    let k = ground.graph.k;
                    let near = ground.graph.neighbours[last * k..][..k].iter();
                    let mut near = near.take_while(|&&row| row != NONE).map(|&row| row as usize);
                    near.find(|&row| free[row] && self.fits(row, &mut states, ground))
                }
            };
            let Some(row) = near.or_else(|| self.along_the_chain(&mut states, ground, free)) else {
                self.ended = true;
                return Ok(());
            };
            let cost = ground.costs.of(row);
            if cost > self.share {
                return Ok(());
            }
            self.share -= cost;
            free[row] = false;
            self.squared += 2.0 * states.products[row] + 1.0;
            self.along += states.along[row];
            self.last = Some(row);
            let dim = self.direction.len();
            self.chosen.resize(self.chosen.len() + dim, 0.0);
            let at = self.chosen.len() - dim;
            ground.units.read(row, &mut self.chosen[at..]);
            picked.rows.push(row as i64);
            picked.directions.push(number);
            picked.by_neighbour.push(u8::from(near.is_some()));
            picked.cosines.push(states.along[row] as f32);
            if picked.rows.len().is_multiple_of(REPORT) {
                ground.supervisor.report(Progress::Rows { done: picked.rows.len(), total: ground.valid.len() });
            }
            if self.share == 0 {
                return Ok(());
            }
        }
    }

    /// The first row of the chain that is free and fits.
    fn along_the_chain(&self, states: &mut RowStates, ground: &Ground, free: &[bool]) -> Option<usize> {
        let (mut before, mut at) = (NONE, states.head);
        while at != NONE {
            let (row, next) = (at as usize, states.chain[at as usize]);
            if self.last.is_none() && states.along[row] <= 0.0 {
                return None;
            }
            if free[row] && self.fits(row, states, ground) {
                return Some(row);
            }
            if !free[row] || states.compared[row] == OUT {
                match before {
                    NONE => states.head = next,
                    before => states.chain[before as usize] = next,
                }
            } else {
                before = at;
            }
            at = next;
        }
        None
    }

    /// Whether `row` fits the walk.
    fn fits(&self, row: usize, states: &mut RowStates, ground: &Ground) -> bool {
        if states.compared[row] == OUT || states.along[row].is_nan() {
            return false;
        }
        let dim = self.direction.len();
        let new = &self.chosen[states.compared[row] as usize * dim..];
        if !new.is_empty() {
            ground.units.read(row, &mut states.x);
            for chosen in new.chunks_exact(dim) {
                let product = dot(chosen, &states.x);
                if product < 0.0 {
                    states.compared[row] = OUT;
                    return false;
                }
                states.products[row] += product;
            }
            states.compared[row] = (self.chosen.len() / dim) as u32;
        }
        if self.last.is_none() {
            return true;
        }
        // A row has unit length.
        let squared = self.squared + 2.0 * states.products[row] + 1.0;
        (self.along + states.along[row]) / squared.sqrt() >= ground.options.ratio * (self.along / self.squared.sqrt())
    }
}

impl RowStates {
    fn new(ground: &Ground, direction: &[f64], free: &[bool]) -> Result<RowStates> {
        const STEP: usize = 2048;
        let (n, dim) = (free.len(), direction.len());
        let mut cosines = vec![f64::NAN; ground.valid.len()];
        in_order(ground.valid.chunks(STEP).zip(cosines.chunks_mut(STEP)), |(list, cosines)| {
            ground.supervisor.check()?;
            let mut x = vec![0f32; list.len() * dim];
            Units::new(ground.source).read(list, &mut x)?;
            products(&x, direction, cosines);
            // A row of zeros has no direction.
            let nothing = cosines.iter_mut().zip(x.chunks_exact(dim)).filter(|(_, x)| x.iter().all(|&x| x == 0.0));
            nothing.for_each(|(cosine, _)| *cosine = f64::NAN);
            Ok(())
        })?;
        let mut along = vec![f64::NAN; n];
        ground.valid.iter().zip(&cosines).for_each(|(&row, &cosine)| along[row as usize] = cosine);
        let open = (0..n).filter(|&row| free[row] && !along[row].is_nan());
        let mut order: Vec<u32> = open.map(|row| row as u32).collect();
        order.sort_unstable_by(|&a, &b| along[b as usize].total_cmp(&along[a as usize]).then(a.cmp(&b)));
        let mut chain = vec![NONE; n];
        order.windows(2).for_each(|pair| chain[pair[0] as usize] = pair[1]);
        let head = order.first().copied().unwrap_or(NONE);
        Ok(RowStates { along, compared: vec![0; n], products: vec![0.0; n], chain, head, x: vec![0.0; dim] })
    }
}
