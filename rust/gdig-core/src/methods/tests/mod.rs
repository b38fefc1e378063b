//! The methods that go along neighbours against plain versions, on rows of unit length whose products float64 holds
//! exactly.

mod g2is;
mod self_filter;

use bytemuck::cast_slice;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::convert::Rows;
use crate::hash::row_hash;
use crate::interrupt::Supervisor;
use crate::neighbours::{exact, Graph, Options as Search, NONE};
use crate::rows::Source;
use crate::store::{Store, TensorData};
use crate::{Dtype, Limit};

const DIM: usize = 16;

/// Rows with 4 or 16 columns of 1 or -1, mostly 1, and zeros else: lengths 2 and 4. Some are zero, some there twice.
fn data(n: usize, random_seed: u64) -> Vec<f32> {
    let mut x = vec![0f32; n * DIM];
    for i in 0..n {
        let random = row_hash(random_seed, i as u64);
        let sign = |j: usize| if row_hash(!random_seed, (i * DIM + j) as u64).is_multiple_of(5) { -1.0 } else { 1.0 };
        match random % 16 {
            0 => (),
            1 | 2 if i > 0 => x.copy_within((i - 1) * DIM..i * DIM, i * DIM),
            3..8 => (0..DIM).for_each(|j| x[i * DIM + j] = sign(j)),
            _ => (0..4).for_each(|j| x[i * DIM + (j * 5 + (random >> 8) as usize) % DIM] = sign(j)),
        }
    }
    x
}

fn array(x: &[f32]) -> Source<'_> {
    Source::Array(Rows::new(Dtype::F32, DIM, cast_slice(x), &[]).unwrap())
}

fn graph(source: &Source, k: usize) -> Graph {
    exact(source, &Search { k, kernel: None, n_threads: 2 }, &Supervisor::none()).unwrap()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn units(x: &[f32]) -> Vec<Vec<f64>> {
    let wide = x.chunks(DIM).map(|x| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
    wide.map(|x| dot(&x, &x).sqrt()).zip(x.chunks(DIM)).map(scaled).collect()
}

fn scaled((norm, x): (f64, &[f32])) -> Vec<f64> {
    x.iter().map(|&x| if norm > 0.0 { f64::from(x) / norm } else { 0.0 }).collect()
}

struct Case<'a> {
    units: &'a [Vec<f64>],
    valid: &'a dyn Fn(usize) -> bool,
    graph: &'a Graph,
    /// Without them each row costs 1.
    tokens: Option<&'a [u32]>,
}

impl Case<'_> {
    fn cost(&self, row: usize) -> u64 {
        self.tokens.map_or(1, |tokens| u64::from(tokens[row]))
    }
}

fn limit(budget: u64, tokens: Option<&[u32]>) -> Limit {
    if tokens.is_some() {
        Limit::Tokens(budget)
    } else {
        Limit::Rows(budget)
    }
}

/// A store of these rows in shards of 16, a quarter of them invalid, and which are not.
fn store_with_invalid_rows(x: &[f32], random_seed: u64) -> (TempDir, Store, Vec<bool>) {
    let n = x.len() / DIM;
    let valid: Vec<u8> = (0..n as u64).map(|i| u8::from(!row_hash(random_seed, i).is_multiple_of(4))).collect();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(directory.path(), DIM, Dtype::F16, 16, false).unwrap();
    for (index, (x, valid)) in x.chunks(16 * DIM).zip(valid.chunks(16)).enumerate() {
        let tensor = TensorData { name: "valid", dtype: Dtype::U8, shape: vec![valid.len()], bytes: valid };
        store.write_shard(index, Rows::new(Dtype::F32, DIM, cast_slice(x), &[]).unwrap(), &[tensor]).unwrap();
    }
    let valid = valid.into_iter().map(|valid| valid != 0).collect();
    (directory, store, valid)
}
