//! Labels and bounds of the search that learns, against the whole search.

use proptest::prelude::*;

use super::super::{Assigner, Kernel, Scratch};
use super::*;
use crate::hash::{row_hash, unit};
use crate::rows::distances::MAX_SQUARED_NORM;
use crate::testing::{data, Stored, DTYPES};
use crate::Dtype;

/// The kernels of this machine that learn.
fn kernels() -> impl Iterator<Item = Kernel> {
    let learns = |kernel: &Kernel| Assigner::new(*kernel, &[0.0], 1, Dtype::F32).is_ok_and(|a| a.n_panels().is_some());
    let learns = move |kernel: &Kernel| kernel.rounding() == "int8" || learns(kernel);
    Kernel::available().map(|(kernel, _)| kernel).filter(move |kernel| learns(kernel) && *kernel != Kernel::AmxInt8)
}

/// Search for each of `centroids` in turn, learning from one to the next. Each search gives the labels of the whole
/// search, and bounds that are true. Returns which share of the products each search took.
fn check(kernel: Kernel, rows: Rows, centroids: &[Vec<f32>]) -> Vec<f64> {
    let dim = rows.dim();
    let (mut known, mut scratch, mut before) = (Known::default(), Scratch::default(), None);
    let decoded = exact(kernel, rows);
    let mut shares = Vec::new();
    for centroids in centroids {
        let assigner = Assigner::new(kernel, centroids, dim, rows.dtype()).unwrap();
        let (block_rows, n_panels) = (assigner.block_rows(), assigner.n_panels().unwrap());
        let moves = assigner.moves(centroids, before);
        known.prepare(rows.len(), block_rows, n_panels);
        scratch.known.searched = 0;
        for (number, first) in (0..rows.len()).step_by(block_rows).enumerate() {
            let block = rows.slice(first, rows.len().min(first + block_rows));
            let (mut whole, mut labels) = (vec![7; block.len()], vec![9; block.len()]);
            assigner.assign(block, &[], &mut whole, &mut Scratch::default());
            assigner.assign_known(block, &moves, known.block(number), &mut labels, &mut scratch);
            assert_eq!(labels, whole, "{kernel:?}");
            let lanes = centroids.len().div_ceil(dim).div_ceil(n_panels).next_power_of_two();
            let KnownBlock { lower, .. } = known.block(number);
            for (p, panel) in centroids.chunks(lanes * dim).enumerate().take(n_panels) {
                for i in 0..block.len() {
                    let x = &decoded[(first + i) * dim..][..dim];
                    let distance =
                        |c: &[f32]| x.iter().zip(c).map(|(x, c)| (x - f64::from(*c)).powi(2)).sum::<f64>().sqrt();
                    let nearest = panel.chunks(dim).map(distance).fold(f64::INFINITY, f64::min);
                    let bound = f64::from(lower[p * block.len() + i]);
                    assert!(bound <= nearest * (1.0 + 1e-12), "{kernel:?}: {bound:e} of {nearest:e}");
                }
            }
        }
        shares.push(scratch.known.searched as f64 / (rows.len() * n_panels) as f64);
        before = Some(&centroids[..]);
    }
    shares
}

/// Rows as a kernel's bounds take them: an int8 one does not round the product of a column and its scale.
fn exact(kernel: Kernel, rows: Rows) -> Vec<f64> {
    if kernel.rounding() == "int8" {
        let q = bytemuck::cast_slice::<u8, i8>(rows.bytes()).chunks_exact(rows.dim()).zip(rows.scales());
        return q.flat_map(|(q, &scale)| q.iter().map(move |&q| f64::from(q) * f64::from(scale))).collect();
    }
    let mut decoded = vec![0f32; rows.len() * rows.dim()];
    rows.decode(&mut decoded);
    decoded.into_iter().map(f64::from).collect()
}

/// Centroids that move by `step` of their length each time, some of them not at all.
fn moving(start: &[f32], dim: usize, step: f32, times: usize) -> Vec<Vec<f32>> {
    let mut all = vec![start.to_vec()];
    for time in 1..times {
        let moved = all[time - 1].iter().enumerate().map(|(i, &c)| {
            let random = row_hash(time as u64, i as u64);
            let rests = row_hash(time as u64, (i / dim) as u64).is_multiple_of(3);
            if rests {
                c
            } else {
                c * (1.0 + step * (unit(random) as f32 - 0.5))
            }
        });
        all.push(moved.collect());
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 64 }, ..ProptestConfig::default() })]

    #[test]
    fn labels_are_those_of_the_whole_search(
        n in 1usize..600, dim in 1usize..70, k in 1usize..150, offset in -2f32..2.0,
        exponent in prop::sample::select(&[0, 0, 5, 14][..]), moves in 0i32..20, twice in any::<bool>(),
        scale in prop::sample::select(&[0, 0, -60, -130, 50][..]), dtype in prop::sample::select(&DTYPES[..]),
        random_seed in any::<u64>()
    ) {
        let scale = if dtype == Dtype::F16 { scale.clamp(-20, 0) } else { scale };
        let at = |v: Vec<f32>| -> Vec<f32> {
            v.into_iter().map(|v| (v + offset * 2f32.powi(exponent)) * 2f32.powi(scale)).collect()
        };
        let mut start = at(data(k, dim, 30, random_seed));
        if twice {
            start.extend(start.clone());
        }
        let stored = Stored::new(&at(data(n, dim, 30, random_seed ^ 1)), dim, dtype);
        let centroids = moving(&start, dim, 2f32.powi(-moves), 4);
        // Beyond it a fit ends, and scores overflow.
        let mut decoded = vec![0f32; n * dim];
        stored.rows().decode(&mut decoded);
        let sound = |vectors: &[f32]| vectors.chunks(dim).all(|v| squared_norm(v) < f64::from(MAX_SQUARED_NORM));
        prop_assume!(sound(&decoded) && centroids.iter().all(|centroids| sound(centroids)));
        for kernel in kernels().filter(|kernel| kernel.takes(dtype)) {
            check(kernel, stored.rows(), &centroids);
        }
    }
}

#[test]
fn what_cannot_be_nearest_is_skipped() {
    let dim = 64;
    let start = data(320, dim, 320, 2);
    let x = data(300, dim, 320, 3);
    let centroids = moving(&start, dim, 2f32.powi(-8), 3);
    for kernel in kernels() {
        let dtype = if kernel.takes(Dtype::F32) { Dtype::F32 } else { Dtype::I8 };
        let shares = check(kernel, Stored::new(&x, dim, dtype).rows(), &centroids);
        assert_eq!(shares[0], 1.0, "nothing is known");
        assert!(shares[1] < 0.5 && shares[2] < 0.5, "{kernel:?}: {shares:?}");
    }
}
