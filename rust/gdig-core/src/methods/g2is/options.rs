//! What the walk is asked for, and what comes of it.

use crate::methods::Costs;

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
pub struct Picked {
    pub rows: Vec<i64>,
    /// Of each: its direction, whether it is a neighbour of the row before it, and its cosine to the direction.
    pub directions: Vec<u32>,
    pub by_neighbour: Vec<u8>,
    pub cosines: Vec<f32>,
    /// Of each direction, whether its walk ended before its share was used up.
    pub ended: Vec<bool>,
}
