//! The kernels by themselves, on one thread: the search for the nearest centroid, and the update behind it.
//!
//! `make bench-rust`, or `cargo bench -p gdig-core -- amx` for some. criterion's "elem/s" are floating-point operations
//! (2 K d a row for the search, 4 d for the update), so its G are GFLOP/s. Behind each comes the share of a ceiling
//! that is measured right before it: the same instruction in registers alone. Best time against best time, as machines
//! are shared.

mod ceiling;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytemuck::{cast_slice, cast_slice_mut};
use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use gdig_core::convert::{encode, Rows};
use gdig_core::hash::{row_hash, unit};
use gdig_core::kmeans::tally::Tally;
use gdig_core::simd::{Assigner, Kernel, Scratch};
use gdig_core::Dtype;

const DIM: usize = 512;
const CLUSTERS: [usize; 2] = [512, 4096];
const DTYPES: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I8];

/// Numbers in -1..1.
fn numbers(n: usize, random_seed: u64) -> Vec<f32> {
    (0..n).map(|i| (unit(row_hash(random_seed, i as u64)) * 2.0 - 1.0) as f32).collect()
}

/// Rows as a store holds them.
struct Stored {
    dtype: Dtype,
    bytes: Vec<u64>,
    scales: Vec<f32>,
}

impl Stored {
    fn new(n: usize, dtype: Dtype) -> Stored {
        let x = numbers(n * DIM, 1);
        let (mut encoded, mut scales) = (Vec::new(), Vec::new());
        let rows = Rows::new(Dtype::F32, DIM, cast_slice(&x), &[]).expect("rows");
        encode(rows, dtype, 0, &mut encoded, &mut scales).expect("finite numbers");
        let mut bytes = vec![0u64; encoded.len() / 8];
        cast_slice_mut(&mut bytes).copy_from_slice(&encoded);
        Stored { dtype, bytes, scales }
    }

    fn rows(&self) -> Rows<'_> {
        Rows::new(self.dtype, DIM, cast_slice(&self.bytes), &self.scales).expect("rows")
    }
}

/// Enough rows that blocks come from memory, as they do in a fit; fewer for what is slow.
fn rows_for(kernel: Kernel, k: usize) -> usize {
    match kernel {
        Kernel::Scalar => 32,
        Kernel::AmxBf16 | Kernel::AmxInt8 => (1 << 23) / k,
        _ => (1 << 20) / k,
    }
}

/// Time `work`, of so many operations, and say which share of the ceiling it reaches.
fn measure(criterion: &mut Criterion, name: &str, flops: u64, ceiling: Option<f64>, mut work: impl FnMut()) {
    let mut best = Duration::MAX;
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(flops)).sample_size(10);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(800));
    group.bench_function("1 thread", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                let begin = Instant::now();
                work();
                let took = begin.elapsed();
                best = best.min(took);
                total += took;
            }
            total
        });
    });
    group.finish();
    if best < Duration::MAX {
        let rate = flops as f64 / best.as_secs_f64();
        let share = ceiling.map_or(String::new(), |c| format!(", {:.1} % of {:.0}", 100.0 * rate / c, c / 1e9));
        println!("{name}: best {:.1} GFLOP/s{share}\n", rate / 1e9);
    }
}

fn search(criterion: &mut Criterion) {
    for k in CLUSTERS {
        let centroids = numbers(k * DIM, 2);
        for (kernel, name) in Kernel::available() {
            for dtype in DTYPES.into_iter().filter(|&dtype| kernel.takes(dtype)) {
                let stored = Stored::new(rows_for(kernel, k), dtype);
                let (rows, mut scratch) = (stored.rows(), Scratch::default());
                let assigner = Assigner::new(kernel, &centroids, DIM, dtype).expect("a kernel of this machine");
                let mut labels = vec![0; rows.len()];
                let work = || {
                    for first in (0..rows.len()).step_by(assigner.block_rows()) {
                        let last = rows.len().min(first + assigner.block_rows());
                        let block = black_box(rows.slice(first, last));
                        let ahead = rows.slice(last, rows.len().min(2 * last - first)).bytes();
                        assigner.assign(block, ahead, &mut labels[first..last], &mut scratch);
                    }
                    black_box(&labels);
                };
                let flops = (2 * rows.len() * k * DIM) as u64;
                let ceiling = ceiling::of(kernel);
                measure(criterion, &format!("search/{name}/{}/K {k}", dtype.name()), flops, ceiling, work);
            }
        }
    }
}

fn update(criterion: &mut Criterion) {
    for k in CLUSTERS {
        let centroids = numbers(k * DIM, 2);
        let (mut sums, offset) = (vec![0f32; k * DIM], [0f32; DIM]);
        for dtype in DTYPES {
            let stored = Stored::new(1 << 13, dtype);
            let rows = stored.rows();
            let labels: Vec<u32> = (0..rows.len()).map(|i| (row_hash(3, i as u64) % k as u64) as u32).collect();
            let (mut tally, span) = (Tally::new(None), (4 << 20) / (DIM * dtype.size()));
            let work = || {
                // So many rows as the search leaves at once; their sums grow without harm.
                for first in (0..rows.len()).step_by(span) {
                    let (block, labels) = (rows.slice(first, first + span), &labels[first..first + span]);
                    tally.add(black_box(block), labels, &centroids, &offset, &mut sums).expect("finite rows");
                }
                black_box(&tally.distances);
            };
            let flops = (4 * rows.len() * DIM) as u64;
            let ceiling = ceiling::of(Kernel::detect(Dtype::F32, Dtype::F32, DIM));
            measure(criterion, &format!("update/{}/K {k}", dtype.name()), flops, ceiling, work);
        }
    }
}

criterion_group!(benches, search, update);
criterion_main!(benches);
