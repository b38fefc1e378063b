//! The rows of a sweep that may be drawn.

use std::ops::Range;

use super::shard::each_shard;
use super::votes::Judge;
use crate::hash::{derive, unit, RowHash};
use crate::interrupt::Supervisor;
use crate::kmeans::{LabelFile, LabelFiles};
use crate::resample::{sortable, Population, Row, NOT_ELIGIBLE};
use crate::store::Store;
use crate::Result;

/// The order of the rows inside a cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// The smallest hash of (random seed, row) first.
    Hash,
    /// The highest score first.
    Score,
    /// The highest of score x scale + g first, with g of the Gumbel distribution from the hash. That draws rows without
    /// replacement in proportion to exp(score x scale) (Gumbel-top-k; Kool, van Hoof and Welling, 2019).
    Gumbel { scale: f64 },
}

/// Rows of a sweep that may be drawn: valid, with enough votes, and in a cluster if there are clusters.
pub struct Drawable<'a> {
    pub store: &'a Store,
    /// `None` means that all rows are in one cluster.
    pub labels: Option<&'a LabelFiles>,
    pub judge: Judge<'a>,
    pub least_votes: u32,
    pub order: Order,
    pub random_seed: u64,
    pub len: usize,
    pub supervisor: &'a Supervisor<'a>,
}

impl Population for Drawable<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn each(&self, span: Range<usize>, visit: &mut impl FnMut(Row)) -> Result<()> {
        let hash = RowHash::new(derive(self.random_seed, "rows"));
        let mut file: Option<LabelFile> = None;
        each_shard(self.store, span, |shard, rows| {
            shard.check_judge(self.judge)?;
            for row in rows {
                if !shard.is_valid(row) {
                    continue;
                }
                let label = match self.labels {
                    None => 0,
                    Some(labels) => {
                        if file.as_ref().is_none_or(|file| !file.span.contains(&row)) {
                            file = Some(labels.file_of(row, self.supervisor)?);
                        }
                        file.as_ref().expect("opened just above").label(row)
                    }
                };
                if label == NOT_ELIGIBLE {
                    continue;
                }
                let judged = shard.judged(row, self.judge)?;
                if judged.votes < self.least_votes {
                    continue;
                }
                let key = match self.order {
                    Order::Hash => hash.of(row as u64),
                    Order::Score => !sortable(f64::from(judged.score)),
                    Order::Gumbel { scale } => {
                        let noise = -(-unit(hash.of(row as u64)).ln()).ln();
                        !sortable(f64::from(judged.score) * scale + noise)
                    }
                };
                visit(Row { row: row as u64, label: label as usize, key, cost: shard.tokens(row)? });
            }
            Ok(())
        })
    }
}
