//! Rows in arrays: their labels, and the order inside a cluster.

use std::ops::Range;

use super::{Population, Row};
use crate::hash::{derive, unit, RowHash};
use crate::{Error, Result};

/// The label of a row that is not eligible.
pub const NOT_ELIGIBLE: u32 = u32::MAX;
/// Labels are below this number, because clusters are counted in arrays by label.
pub const MAX_LABEL: usize = 1 << 28;
/// The labels of rows. -1 and 2^32 - 1 mark a row that is not eligible.
#[derive(Clone, Copy, Debug)]
pub enum Labels<'a> {
    U32(&'a [u32]),
    I32(&'a [i32]),
    I64(&'a [i64]),
}

impl Labels<'_> {
    pub fn len(&self) -> usize {
        match self {
            Labels::U32(labels) => labels.len(),
            Labels::I32(labels) => labels.len(),
            Labels::I64(labels) => labels.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The cluster of a row; `None` if it is not eligible.
#[inline]
fn eligible(row: usize, label: i64) -> Result<Option<usize>> {
    if (0..MAX_LABEL as i64).contains(&label) {
        return Ok(Some(label as usize));
    }
    // Not cold: every second row may have such a label.
    if label == -1 || label == i64::from(NOT_ELIGIBLE) {
        return Ok(None);
    }
    Err(impossible(row, label))
}

#[cold]
fn impossible(row: usize, label: i64) -> Error {
    Error::input(format!(
        "row {row}: label: expected 0 to {}, or -1 for a row to leave out, got {label}",
        MAX_LABEL - 1
    ))
}

/// One number for each row.
#[derive(Clone, Copy, Debug)]
pub enum Column<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    I32(&'a [i32]),
    I64(&'a [i64]),
}

impl Column<'_> {
    pub fn len(&self) -> usize {
        match self {
            Column::F32(values) => values.len(),
            Column::F64(values) => values.len(),
            Column::I32(values) => values.len(),
            Column::I64(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn float(&self, row: usize) -> f64 {
        match self {
            Column::F32(values) => f64::from(values[row]),
            Column::F64(values) => values[row],
            Column::I32(values) => f64::from(values[row]),
            Column::I64(values) => values[row] as f64,
        }
    }

    #[inline]
    pub fn cost(&self, row: usize) -> Result<u64> {
        let cost = match self {
            Column::I32(values) => i64::from(values[row]),
            Column::I64(values) => values[row],
            _ => return Err(Error::input("costs: expected integers (int32 or int64), got floats")),
        };
        u64::try_from(cost).map_err(|_| Error::input(format!("row {row}: cost: expected at least 0, got {cost}")))
    }
}

/// The order inside a cluster.
#[derive(Clone, Copy, Debug)]
pub enum Priority<'a> {
    /// The smallest hash of (random seed, row) first: uniform draws without replacement.
    Hash,
    /// Draws without replacement in proportion to weights (Efraimidis and Spirakis, 2006). Weight 0 is never drawn.
    Weights(Column<'a>),
    /// The highest value first.
    Values(Column<'a>),
}

/// Bits of a float that sort as the float does (not for NaN).
#[inline]
pub fn sortable(x: f64) -> u64 {
    // The sum makes -0 equal to 0.
    let bits = (x + 0.0).to_bits();
    if bits >> 63 == 1 {
        !bits
    } else {
        bits | 1 << 63
    }
}

impl Priority<'_> {
    fn len(&self) -> Option<usize> {
        match self {
            Priority::Hash => None,
            Priority::Weights(column) | Priority::Values(column) => Some(column.len()),
        }
    }

    /// A row's key, smaller first; `None` for a row that is never drawn.
    #[inline]
    fn key(&self, row: usize, hash: RowHash) -> Result<Option<u64>> {
        match self {
            Priority::Hash => Ok(Some(hash.of(row as u64))),
            Priority::Weights(column) => {
                let weight = column.float(row);
                if !(weight >= 0.0 && weight.is_finite()) {
                    return Err(Error::input(format!(
                        "row {row}: weight: expected a finite number >= 0, got {weight}"
                    )));
                }
                // u^(1/w) descending is -ln(u)/w ascending, and that does not underflow.
                let key = || sortable(-unit(hash.of(row as u64)).ln() / weight);
                Ok((weight > 0.0).then(key))
            }
            Priority::Values(column) => {
                let value = column.float(row);
                if value.is_nan() {
                    return Err(Error::input(format!("row {row}: priority: expected a number, got NaN")));
                }
                Ok(Some(!sortable(value)))
            }
        }
    }
}

/// A label, and optionally a priority and a cost, for each row.
pub struct Arrays<'a> {
    labels: Labels<'a>,
    priority: Priority<'a>,
    costs: Option<Column<'a>>,
    hash: RowHash,
}

impl<'a> Arrays<'a> {
    pub fn new(
        labels: Labels<'a>,
        priority: Priority<'a>,
        costs: Option<Column<'a>>,
        random_seed: u64,
    ) -> Result<Arrays<'a>> {
        for (name, len) in [("weights or priority", priority.len()), ("costs", costs.map(|c| c.len()))] {
            if len.is_some_and(|len| len != labels.len()) {
                let expected = labels.len();
                return Err(Error::input(format!(
                    "{name}: expected {expected} numbers, one for each row, got {}",
                    len.unwrap_or(0)
                )));
            }
        }
        Ok(Arrays { labels, priority, costs, hash: RowHash::new(derive(random_seed, "rows")) })
    }
}

impl Arrays<'_> {
    /// `each` for one type of labels, so that the type is not asked for again at each row.
    #[inline]
    fn each_of<T: Copy>(
        &self,
        labels: &[T],
        span: Range<usize>,
        widen: impl Fn(T) -> i64,
        visit: &mut impl FnMut(Row),
    ) -> Result<()> {
        let rows = span.clone().zip(&labels[span]);
        if let (Priority::Hash, None) = (self.priority, self.costs) {
            for (row, &label) in rows {
                if let Some(label) = eligible(row, widen(label))? {
                    visit(Row { row: row as u64, label, key: self.hash.of(row as u64), cost: 0 });
                }
            }
            return Ok(());
        }
        for (row, &label) in rows {
            let Some(label) = eligible(row, widen(label))? else { continue };
            let Some(key) = self.priority.key(row, self.hash)? else { continue };
            let cost = self.costs.map_or(Ok(0), |costs| costs.cost(row))?;
            visit(Row { row: row as u64, label, key, cost });
        }
        Ok(())
    }
}

impl Population for Arrays<'_> {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn each(&self, span: Range<usize>, visit: &mut impl FnMut(Row)) -> Result<()> {
        match self.labels {
            Labels::U32(labels) => self.each_of(labels, span, i64::from, visit),
            Labels::I32(labels) => self.each_of(labels, span, i64::from, visit),
            Labels::I64(labels) => self.each_of(labels, span, |label| label, visit),
        }
    }
}
