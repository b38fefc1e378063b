//! A whole file of hostile bytes: opened, its checksum compared, every tensor looked at; and taken for a store's shard.

#![no_main]

use std::sync::LazyLock;

use gdig_core::interrupt::Supervisor;
use gdig_core::store::{Store, TensorFile};
use gdig_core::Dtype;
use libfuzzer_sys::fuzz_target;

/// A store of two columns of each type, for the life of the process.
static STORES: LazyLock<[Store; 4]> = LazyLock::new(|| {
    let folder = gdig_fuzz::start();
    let make = |dtype: Dtype| Store::create(&folder.join(dtype.name()), 2, dtype, 8, false).expect("a store");
    [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I8].map(make)
});

fuzz_target!(|bytes: &[u8]| {
    for store in &*STORES {
        let path = store.shard_path(0);
        std::fs::write(&path, bytes).expect("a file");
        let Ok(file) = TensorFile::open(&path) else { return };
        assert!(store.damage(8, &Supervisor::none()).expect("a list").len() <= 1);
        let _ = (store.missing(8), store.check_complete(), store.verify(&Supervisor::none()));
        let _ = file.verify(&|| Ok(()));
        for (name, info) in &file.header().tensors {
            assert_eq!(file.bytes(name).expect("it is listed").len(), info.end - info.start);
            // Aligned or refused: never a panic.
            let _ = file.typed::<f32>(name, Dtype::F32);
            let _ = file.typed::<u8>(name, Dtype::U8);
            let _ = file.typed::<u64>(name, Dtype::U64);
        }
        // By its header alone: hostile bytes seldom have the right checksum, and a forger computes it.
        if let Ok(shard) = store.shard_header(0) {
            let mut x = vec![0f32; shard.len() * store.dim()];
            shard.rows().decode(&mut x);
            if let Ok(Some(valid)) = shard.valid() {
                assert_eq!(valid.len(), shard.len());
            }
        }
    }
});
