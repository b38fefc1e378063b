//! The resume file of k-means with a right checksum and the right origin, and hostile content: a fit goes on from it or
//! begins anew, and ends with finite centroids.

#![no_main]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use gdig_core::convert::Rows;
use gdig_core::interrupt::Supervisor;
use gdig_core::kmeans::{fit, Init, Options};
use gdig_core::rows::Source;
use gdig_core::store::{write, TensorData, TensorFile, MADE_FROM};
use gdig_core::Dtype;
use libfuzzer_sys::fuzz_target;

const K: usize = 2;
const DIM: usize = 2;
const ROWS: [f32; 12] = [0.0, 0.1, 0.2, 0.0, 5.0, 5.1, 5.2, 5.0, -3.0, 1.0, 2.0, -7.0];

/// The file for the life of the process, and what a file of this fit says that it was made from.
static FILE: LazyLock<(PathBuf, String)> = LazyLock::new(|| {
    let path = gdig_fuzz::start().join("fit.safetensors");
    go(&path);
    let made_from = TensorFile::open(&path).expect("the fit writes it").made_from().to_owned();
    (path, made_from)
});

fn go(path: &std::path::Path) {
    let options = Options {
        n_clusters: K,
        init: Init::PlusPlus,
        max_iter: 2,
        tol: 0.0,
        random_state: 0,
        train_rows: None,
        unit_normalize: false,
        kernel: None,
        n_threads: 1,
        weights: None,
        resume_file: Some(path.into()),
    };
    let bytes: Vec<u8> = ROWS.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut aligned = vec![0u64; bytes.len().div_ceil(8)];
    let rows = bytemuck::cast_slice_mut::<u64, u8>(&mut aligned);
    rows.copy_from_slice(&bytes);
    let source = Source::Array(Rows::new(Dtype::F32, DIM, rows, &[]).expect("rows"));
    let fitted = fit(&source, &options, &Supervisor::none()).expect("a fit");
    assert!(fitted.centroids.iter().all(|x| x.is_finite()) && fitted.counts.len() == K);
}

#[derive(Arbitrary, Debug)]
struct Content<'a> {
    centroids: Vec<f32>,
    counts: Vec<u64>,
    flat: bool,
    n_iter: Option<u8>,
    inertia: Option<u64>,
    metadata: Vec<(u8, &'a str)>,
    ended: bool,
}

fuzz_target!(|content: Content| {
    let (path, made_from) = &*FILE;
    let rows = content.centroids.len() / DIM;
    let shape = if content.flat { vec![content.centroids.len()] } else { vec![rows, DIM] };
    let centroids = &content.centroids[..shape.iter().product()];
    let tensors = [
        TensorData { name: "centroids", dtype: Dtype::F32, shape, bytes: bytemuck::cast_slice(centroids) },
        TensorData {
            name: "counts",
            dtype: Dtype::U64,
            shape: vec![content.counts.len()],
            bytes: bytemuck::cast_slice(&content.counts),
        },
    ];
    let mut metadata = BTreeMap::from([
        ("n_iter".to_owned(), content.n_iter.unwrap_or(1).to_string()),
        ("inertia_bits".to_owned(), format!("{:016x}", content.inertia.unwrap_or(1f64.to_bits()))),
        ("ended".to_owned(), content.ended.to_string()),
    ]);
    for (key, text) in &content.metadata {
        metadata.insert(["n_iter", "inertia_bits", "ended"][usize::from(*key) % 3].to_owned(), (*text).to_owned());
    }
    metadata.insert(MADE_FROM.to_owned(), made_from.clone());
    write(path, &tensors, &metadata).expect("a file");
    go(path);
});
