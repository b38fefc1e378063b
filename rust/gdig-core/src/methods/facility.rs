//! Facility location on a graph of neighbours, by lazy greedy (Minoux, 1978). A picked row covers itself wholly. It
//! covers a row that has it among its neighbours to the degree of their cosine. Each step picks the row that adds most
//! to the sum of all rows' coverage, ties by row.
//!
//! Gains only fall, in float64 too: each term falls, and a rounded sum of smaller terms in the same order is not larger.
//! So an outdated entry of the heap is never too low, and the picks are those of the plain form.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::REPORT;
use crate::interrupt::{Progress, Supervisor};
use crate::neighbours::{Graph, NONE};
use crate::{Error, Result};

/// The picked rows, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picked {
    pub rows: Vec<i64>,
    /// What each row adds to the sum of all rows' coverage.
    pub gains: Vec<f64>,
}

/// Pick valid rows up to the budget; fewer when fewer are valid. `valid` has one byte for each row of the graph.
pub fn facility(graph: &Graph, valid: &[u8], budget: usize, supervisor: &Supervisor) -> Result<Picked> {
    let n = valid.len();
    graph.check(n)?;
    let covers = Covers::new(graph, valid)?;
    let mut best = vec![0f32; n];
    let entry = |row: usize| Entry { gain: covers.gain(row, &best), row: row as u32 };
    let mut heap: BinaryHeap<Entry> = (0..n).filter(|&row| valid[row] != 0).map(entry).collect();
    let total = budget.min(heap.len());
    let mut picked = Picked::default();
    while picked.rows.len() < total {
        let top = heap.pop().expect("fewer rows are picked than are valid");
        let now = Entry { gain: covers.gain(top.row as usize, &best), row: top.row };
        // As it stands it must come before the next one, which may be too high.
        if heap.peek().is_some_and(|next| now < *next) {
            heap.push(now);
            continue;
        }
        supervisor.check()?;
        picked.rows.push(i64::from(now.row));
        picked.gains.push(now.gain);
        covers.of(now.row as usize).for_each(|(row, cosine)| best[row] = best[row].max(cosine));
        if picked.rows.len().is_multiple_of(REPORT) {
            supervisor.report(Progress::Rows { done: picked.rows.len(), total });
        }
    }
    Ok(picked)
}

/// The rows that each row covers, ascending, behind the row itself.
struct Covers {
    first: Vec<usize>,
    rows: Vec<u32>,
    cosines: Vec<f32>,
}

impl Covers {
    fn new(graph: &Graph, valid: &[u8]) -> Result<Covers> {
        let n = valid.len();
        let line = |row: usize| {
            let span = row * graph.k..(row + 1) * graph.k;
            graph.neighbours[span.clone()].iter().zip(&graph.cosines[span]).filter(|(&near, _)| near != NONE)
        };
        let mut first = vec![0usize; n + 1];
        for row in (0..n).filter(|&row| valid[row] != 0) {
            for (&near, &cosine) in line(row) {
                if valid[near as usize] == 0 || !cosine.is_finite() {
                    let what =
                        format!("neighbours of row {row}: expected valid rows with finite cosines, got row {near}");
                    return Err(Error::input(what));
                }
                first[near as usize + 1] += usize::from(cosine > 0.0);
            }
        }
        for row in 0..n {
            first[row + 1] += first[row];
        }
        let mut at = first.clone();
        let (mut rows, mut cosines) = (vec![0u32; first[n]], vec![0f32; first[n]]);
        for row in (0..n).filter(|&row| valid[row] != 0) {
            for (&near, &cosine) in line(row).filter(|(_, &cosine)| cosine > 0.0) {
                let place = &mut at[near as usize];
                (rows[*place], cosines[*place]) = (row as u32, cosine.min(1.0));
                *place += 1;
            }
        }
        Ok(Covers { first, rows, cosines })
    }

    fn of(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let span = self.first[row]..self.first[row + 1];
        let others = self.rows[span.clone()].iter().map(|&row| row as usize).zip(self.cosines[span].iter().copied());
        std::iter::once((row, 1.0)).chain(others)
    }

    /// What a row would add, if the rows' coverage is `best`.
    fn gain(&self, row: usize, best: &[f32]) -> f64 {
        self.of(row).map(|(row, cosine)| f64::from((cosine - best[row]).max(0.0))).sum()
    }
}

/// A row with a gain that may be too high. The greatest entry has the largest gain, ties by row.
#[derive(Clone, Copy, PartialEq)]
struct Entry {
    gain: f64,
    row: u32,
}

impl Eq for Entry {}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        self.gain.total_cmp(&other.gain).then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Looks at every row for every pick.
    fn plain(graph: &Graph, valid: &[u8], budget: usize) -> Picked {
        let n = valid.len();
        let similar = |of: usize, by: usize| -> f32 {
            let line = &graph.neighbours[of * graph.k..][..graph.k];
            let stored = line.iter().position(|&near| near as usize == by).map(|at| graph.cosines[of * graph.k + at]);
            if of == by {
                1.0
            } else {
                stored.unwrap_or(0.0).max(0.0)
            }
        };
        let (mut best, mut picked) = (vec![0f32; n], Picked::default());
        let mut open: Vec<usize> = (0..n).filter(|&row| valid[row] != 0).collect();
        while picked.rows.len() < budget && !open.is_empty() {
            let gain = |by: usize| -> f64 {
                let own = f64::from((1.0 - best[by]).max(0.0));
                let others = (0..n).filter(|&of| of != by && valid[of] != 0);
                others.fold(own, |sum, of| sum + f64::from((similar(of, by) - best[of]).max(0.0)))
            };
            let gains: Vec<f64> = open.iter().map(|&row| gain(row)).collect();
            let most = gains.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let row = open.remove(gains.iter().position(|&gain| gain == most).unwrap());
            (0..n).filter(|&of| valid[of] != 0).for_each(|of| best[of] = best[of].max(similar(of, row)));
            picked.rows.push(row as i64);
            picked.gains.push(most);
        }
        picked
    }

    proptest! {
        #[test]
        fn lazy_picks_are_those_of_the_plain_form(
            n in 2usize..30, k in 1usize..6, marks in prop::collection::vec((0u8..4, 0u32..30, 0u32..9), 180), budget in 0usize..40
        ) {
            let k = k.min(n - 1);
            let valid: Vec<u8> = (0..n).map(|row| u8::from(marks[row].0 > 0)).collect();
            let mut graph = Graph::empty(n, k);
            for row in (0..n).filter(|&row| valid[row] != 0) {
                for place in 0..k {
                    // Eighths, also negative and equal ones.
                    let (_, near, eighths) = marks[row * k + place];
                    let (near, line) = (near as usize % n, row * k..row * k + place);
                    if near != row && valid[near] != 0 && !graph.neighbours[line].contains(&(near as u32)) {
                        graph.neighbours[row * k + place] = near as u32;
                        graph.cosines[row * k + place] = eighths as f32 / 7.0 - 0.25;
                    }
                }
            }
            let expected = plain(&graph, &valid, budget);
            let none = Supervisor::none();
            prop_assert_eq!(&facility(&graph, &valid, budget, &none).unwrap(), &expected);
            let fewer = facility(&graph, &valid, budget / 2, &none).unwrap();
            prop_assert_eq!(&fewer.rows[..], &expected.rows[..fewer.rows.len()]);
        }
    }

    #[test]
    fn an_invalid_neighbour_is_named() {
        let graph = Graph { k: 1, neighbours: vec![1, 0, 1], cosines: vec![0.5; 3] };
        let none = Supervisor::none();
        let error = facility(&graph, &[1, 0, 1], 2, &none).unwrap_err().to_string();
        assert_eq!(error, "neighbours of row 0: expected valid rows with finite cosines, got row 1");
        assert!(facility(&graph, &[1, 1], 2, &none).is_err());
        assert_eq!(facility(&graph, &[1, 1, 1], 2, &none).unwrap().rows, [1, 0]);
    }
}
