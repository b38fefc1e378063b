//! The options of the walks, and the picked rows.

use crate::Limit;

pub struct Options<'a> {
    /// [V, dim], of unit length.
    pub directions: &'a [f64],
    /// The weight of each direction. Not all are 0.
    pub weights: &'a [f64],
    /// The share of the cosine between the sum and the direction that a step must keep.
    pub ratio: f64,
    pub limit: Limit,
    /// The tokens of each row. Only `Limit::Tokens` needs them.
    pub tokens: Option<&'a [u32]>,
    /// 0 means as many threads as the machine has cores.
    pub n_threads: usize,
}

/// The picked rows, in the order in which the walks reached them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picked {
    pub rows: Vec<i64>,
    /// For each row: its direction, whether it is a neighbour of the row before it, and its cosine to the direction.
    pub directions: Vec<u32>,
    pub by_neighbour: Vec<u8>,
    pub cosines: Vec<f32>,
    /// For each direction, whether its walk ended before its share was spent.
    pub ended: Vec<bool>,
}
