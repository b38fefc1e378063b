//! A whole file of hostile bytes: opened, its checksum compared, every tensor looked at; and taken for a store's shard.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use gdig_core::store::{Store, TensorFile};
use gdig_core::Dtype;
use libfuzzer_sys::fuzz_target;

/// A store of two columns for the life of the process, in memory where the system has a place for that.
static STORE: LazyLock<(Store, Store)> = LazyLock::new(|| {
    let parent = Some(PathBuf::from("/dev/shm")).filter(|path| path.is_dir()).unwrap_or_else(std::env::temp_dir);
    let make = |dtype| {
        let directory = tempfile::Builder::new().prefix("gdig-fuzz").tempdir_in(&parent).expect("a folder");
        Store::create(&directory.keep(), 2, dtype, 8, false).expect("a store")
    };
    (make(Dtype::F16), make(Dtype::I8))
});

fuzz_target!(|bytes: &[u8]| {
    for store in [&STORE.0, &STORE.1] {
        let path = store.shard_path(0);
        std::fs::write(&path, bytes).expect("a file");
        let Ok(file) = TensorFile::open(&path) else { return };
        let _ = file.verify(&|| Ok(()));
        for (name, info) in &file.header().tensors {
            assert_eq!(file.bytes(name).expect("it is listed").len(), info.end - info.start);
            // Aligned or refused: never a panic.
            let _ = file.typed::<f32>(name, Dtype::F32);
            let _ = file.typed::<u8>(name, Dtype::U8);
            let _ = file.typed::<u64>(name, Dtype::U64);
        }
        if let Ok(shard) = store.shard(0) {
            let mut x = vec![0f32; shard.len() * store.dim()];
            shard.rows().decode(&mut x);
            if let Ok(Some(valid)) = shard.valid() {
                assert_eq!(valid.len(), shard.len());
            }
        }
    }
});
