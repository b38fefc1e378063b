//! Label files with a right checksum and hostile content: labels, distances, the number of the first row, and what they
//! were made from.

#![no_main]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use gdig_core::interrupt::Supervisor;
use gdig_core::kmeans::{label_damage, LabelFiles};
use gdig_core::store::{shard_name, write, Store, TensorData, MADE_FROM};
use gdig_core::Dtype;
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(gdig_fuzz::start);

fuzz_target!(|input: (String, Option<String>, Vec<u32>, Vec<u8>, bool, bool)| {
    let (first_row, made_from, labels, distances, floats, with_centroids) = input;
    let labels: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    let distances = &distances[..distances.len() / 4 * 4];
    let dtype = if floats { Dtype::F32 } else { Dtype::U8 };
    let shape = vec![distances.len() / dtype.size()];
    let tensors = [
        TensorData { name: "labels", dtype: Dtype::U32, shape: vec![labels.len() / 4], bytes: &labels },
        TensorData { name: "distances", dtype, shape, bytes: distances },
    ];
    let mut metadata = BTreeMap::from([("first_row".to_owned(), first_row)]);
    metadata.extend(made_from.map(|made_from| (MADE_FROM.to_owned(), made_from)));
    write(&FOLDER.join(shard_name(0)), &tensors, &metadata).expect("a file");
    let store = Store::new(&FOLDER.join("store"), 1, Dtype::F32, 4, "").expect("a store");
    let centroids = with_centroids.then_some((&[1f32, 2.0][..], true));
    let damage = label_damage(&store, 4, centroids, &FOLDER, &Supervisor::none()).expect("a list");
    assert!(damage.iter().all(|(index, _)| *index == 0));
    let Ok(files) = LabelFiles::open(&FOLDER) else { return };
    if let Ok(counts) = files.counts(&Supervisor::none()) {
        // One counter a label: a forged label must not take the memory.
        assert!(counts.len() <= (1 << 20).max(files.len()));
    }
    for row in 0..files.len().min(64) {
        if let Ok(file) = files.file_of(row, &Supervisor::none()) {
            let _ = (file.label(row), file.distance(row));
        }
    }
});
