//! The entries of each column of an influence matrix, the highest first, for methods that take rows one by one.
//!
//! Only the highest remaining entry of a column can be taken next. A pointer into the sorted order of each column gives
//! it. One pass keeps the highest entries of each column; a column that runs out asks for another pass. So memory grows
//! with the columns times the kept entries, not with the rows. Equal entries of a column go to the lower row.

mod scan;

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

pub use scan::{chunk_rows, scan, Moments, Scale};
use scan::{row_of, value_of};

use crate::interrupt::Supervisor;
use crate::sweep::Influence;
use crate::Result;

pub struct Options {
    /// Rows to pick.
    pub budget: usize,
    /// 0 means as many threads as the machine has cores.
    pub n_threads: usize,
    /// The entries of each column that the first pass keeps. When a column runs out, another pass keeps four times as
    /// many from the position of each column on. The number does not change the result.
    pub depth: usize,
    /// The most entries of all columns together; each column keeps at least one. A pass holds twice as many, of 8 bytes
    /// each.
    pub most_entries: usize,
}

impl Options {
    pub fn new(budget: usize) -> Options {
        Options { budget, n_threads: 0, depth: 4096, most_entries: 1 << 27 }
    }
}

/// The highest remaining entry of a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    pub row: usize,
    pub value: f32,
    /// The place of the row in the order of the column, from 1.
    pub rank: u64,
}

/// The remaining entries of a column, the highest first.
struct Entries {
    keys: Vec<u64>,
    at: usize,
    /// The entries that earlier passes have used up.
    before: u64,
    /// The last key that a pass has left out, because it was used up before.
    after: Option<u64>,
}

pub struct SortedColumns<'a> {
    influence: Influence<'a>,
    supervisor: &'a Supervisor<'a>,
    columns: Vec<Entries>,
    taken: Rows,
    depth: usize,
    /// The most entries of a column that a pass may keep.
    most: usize,
}

impl<'a> SortedColumns<'a> {
    /// Also returns the number of valid rows, and the moments of each column. Runs inside a pool of threads.
    pub fn new(
        influence: &Influence<'a>,
        options: &Options,
        supervisor: &'a Supervisor<'a>,
    ) -> Result<(SortedColumns<'a>, u64, Vec<Moments>)> {
        let most = (options.most_entries / influence.n_seeds()).min(options.budget).max(1);
        let depth = options.depth.clamp(1, most);
        let (valid, scanned) = scan(influence, depth, None, supervisor)?;
        let (moments, columns) =
            scanned.into_iter().map(|(m, keys)| (m, Entries { keys, at: 0, before: 0, after: None })).unzip();
        let sorted = SortedColumns { influence: *influence, supervisor, columns, taken: Rows::default(), depth, most };
        Ok((sorted, valid, moments))
    }

    /// The highest entry of a column whose row is not taken; `None` when all valid rows are taken.
    pub fn head(&mut self, column: usize) -> Result<Option<Head>> {
        loop {
            if let Some(head) = self.columns[column].settle(&self.taken) {
                return Ok(Some(head));
            }
            // A pass that kept fewer entries than it may has kept all that were left.
            if self.columns[column].keys.len() < self.depth {
                return Ok(None);
            }
            self.read_on()?;
        }
    }

    /// A taken row is the head of no column.
    pub fn take(&mut self, row: usize) {
        self.taken.insert(row as u64);
    }

    /// Keep more entries of each column, from where it stands.
    fn read_on(&mut self) -> Result<()> {
        self.depth = self.depth.saturating_mul(4).clamp(1, self.most);
        for column in self.columns.iter_mut().filter(|column| column.at > 0) {
            column.after = Some(column.keys[column.at - 1]);
            column.before += column.at as u64;
        }
        let after: Vec<Option<u64>> = self.columns.iter().map(|column| column.after).collect();
        let (_, scanned) = scan(&self.influence, self.depth, Some(&after), self.supervisor)?;
        for (column, (_, keys)) in self.columns.iter_mut().zip(scanned) {
            (column.keys, column.at) = (keys, 0);
        }
        Ok(())
    }
}

impl Entries {
    /// Go to the next entry whose row is not taken. `None` when the kept entries are used up.
    fn settle(&mut self, taken: &Rows) -> Option<Head> {
        while let Some(&key) = self.keys.get(self.at) {
            if !taken.contains(&(row_of(key) as u64)) {
                return Some(Head { row: row_of(key), value: value_of(key), rank: self.before + self.at as u64 + 1 });
            }
            self.at += 1;
        }
        None
    }
}

type Rows = HashSet<u64, BuildHasherDefault<Spread>>;

/// The hash of a row number: its product with an odd constant. It is fast, because columns ask often whether a row is
/// picked. Nobody chooses row numbers to make them collide.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, row: u64) {
        // The table takes its place from the low bits and a tag from the high ones.
        self.0 = row.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("row numbers are u64");
    }
}
