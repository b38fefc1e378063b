//! Two shards of a sweep with right checksums and hostile columns: names, types, shapes and numbers. What reads a sweep
//! gives numbers or an error.

#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use gdig_core::convert::Rows;
use gdig_core::interrupt::Supervisor;
use gdig_core::store::{Store, TensorData};
use gdig_core::sweep::{best, columns, seed_means, survey, By, Influence, Judge, Score, Voters};
use gdig_core::{Dtype, Limit};
use libfuzzer_sys::fuzz_target;

const ROWS: usize = 4;
const COLUMNS: [(&str, Dtype); 4] =
    [("influence", Dtype::F32), ("loss", Dtype::F32), ("tokens", Dtype::I32), ("valid", Dtype::U8)];

/// A sweep of one sketch column, for the life of the process, in memory where the system has a place for that.
static STORE: LazyLock<Store> =
    LazyLock::new(|| Store::create(&gdig_fuzz::start(), 1, Dtype::F32, ROWS, false).expect("a store"));

/// How a column differs from that of a sound sweep.
#[derive(Arbitrary, Debug)]
struct Column<'a> {
    absent: bool,
    dtype: Option<u8>,
    width: Option<u8>,
    bytes: &'a [u8],
}

#[derive(Arbitrary, Debug)]
struct Shard<'a> {
    rows: u8,
    n_seeds: u8,
    columns: [Column<'a>; 4],
}

fn write(index: usize, shard: &Shard) {
    let n = usize::from(shard.rows) % ROWS + 1;
    let n_seeds = usize::from(shard.n_seeds) % 4;
    let mut tensors = Vec::new();
    let mut all_bytes = Vec::new();
    for (column, (name, expected)) in shard.columns.iter().zip(COLUMNS) {
        let others = [Dtype::U8, Dtype::I32, Dtype::F16, Dtype::F32, Dtype::F64];
        let dtype = column.dtype.map_or(expected, |at| others[usize::from(at) % others.len()]);
        let mut shape = if name == "influence" { vec![n, n_seeds] } else { vec![n] };
        if let Some(width) = column.width {
            shape.push(usize::from(width) % 3);
        }
        let mut bytes = column.bytes.to_vec();
        bytes.resize(shape.iter().product::<usize>() * dtype.size(), 1);
        if !column.absent {
            tensors.push((name, dtype, shape));
            all_bytes.push(bytes);
        }
    }
    let tensors: Vec<TensorData> = tensors
        .into_iter()
        .zip(&all_bytes)
        .map(|((name, dtype, shape), bytes)| TensorData { name, dtype, shape, bytes })
        .collect();
    let sketch = vec![0; 4 * n];
    let rows = Rows::new(Dtype::F32, 1, &sketch, &[]).expect("rows");
    STORE.write_shard(index, rows, &tensors).expect("a shard");
}

/// What reads a sweep: one of them at a time, so that more shards are tried in the same time.
#[derive(Arbitrary, Debug)]
enum Reader {
    Survey,
    Best,
    BestByLoss,
    Columns,
    SeedMeans,
    Influence,
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    reader: Reader,
    steady: bool,
    shards: [Shard<'a>; 2],
}

fuzz_target!(|input: Input| {
    input.shards.iter().enumerate().for_each(|(index, shard)| write(index, shard));
    let none = Supervisor::none();
    let judge = Judge::new(if input.steady { Score::Steady } else { Score::Mean }, Voters::Seeds);
    let check = |rows: Vec<_>| assert!(rows.iter().all(|&row| (row as usize) < 2 * ROWS));
    match input.reader {
        Reader::Survey => {
            if let Ok(survey) = survey(&STORE, judge, &none) {
                assert!(survey.counts.iter().sum::<u64>() <= survey.rows as u64);
            }
        }
        Reader::Best => best(&STORE, By::Score(judge), Limit::Rows(3), &none).map_or((), check),
        Reader::BestByLoss => best(&STORE, By::Loss, Limit::Tokens(9), &none).map_or((), check),
        Reader::Columns => drop(columns(&STORE, None, &[0, 1, 5], judge, &none)),
        Reader::SeedMeans => drop(seed_means(&STORE, &none)),
        Reader::Influence => {
            if let Ok(influence) = Influence::sweep(&STORE) {
                let _ = influence.with_rows(0..influence.len(), |rows| rows.len());
            }
        }
    }
});
