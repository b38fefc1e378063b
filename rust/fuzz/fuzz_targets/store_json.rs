//! The description of a store as hostile bytes: no panic, and nothing accepted whose sizes overflow.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use gdig_core::interrupt::Supervisor;
use gdig_core::store::Store;
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(gdig_fuzz::start);

fuzz_target!(|bytes: &[u8]| {
    std::fs::write(FOLDER.join("store.json"), bytes).expect("a file");
    let Ok(store) = Store::open(&FOLDER) else { return };
    assert!(store.dim().checked_mul(store.rows_per_shard()).is_some_and(|n| n > 0));
    assert!(store.is_empty().expect("no shards"));
    assert!(store.damage(store.rows_per_shard(), &Supervisor::none()).expect("a list").is_empty());
});
