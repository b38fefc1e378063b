//! k-means over more rows than are fetched ahead.

use super::*;
use crate::rows::readahead::tests::{store, DIM, ROWS};

fn model(centroids: &[f32]) -> Model<'_> {
    Model { centroids, unit_normalize: false, kernel: None, n_threads: 2 }
}

#[test]
fn what_is_fetched_ahead_is_what_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory.path().join("rows"));
    let source = Source::store(&store).unwrap();
    let mut centroids = vec![0f32; 2 * DIM];
    centroids[DIM] = ROWS as f32;
    let (labels, distances) = predict(&source, &model(&centroids), &Supervisor::none()).unwrap();
    // Halfway the tie goes to the lower centroid.
    assert!(labels.iter().enumerate().all(|(i, &label)| label == u32::from(2 * i > ROWS)));
    assert!(distances.iter().enumerate().all(|(i, &d)| d == i.min(ROWS - i) as f32));

    // A shard that is gone ends both threads, with the worker's complaint.
    let lost = store.path().join(shard_name(5));
    std::fs::remove_file(&lost).unwrap();
    let error = predict(&source, &model(&centroids), &Supervisor::none()).unwrap_err().to_string();
    assert!(error.contains(lost.to_str().unwrap()), "{error}");
    let to = directory.path().join("labels");
    let error = write_labels(&source, &model(&centroids), &to, 0, None, &Supervisor::none()).unwrap_err().to_string();
    assert!(error.contains(lost.to_str().unwrap()), "{error}");
    let files: Vec<_> = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(files.len() <= 5 && files.iter().all(|name| name.to_str().unwrap() < "00000005"), "{files:?}");
}
