//! Names of files in a directory as hostile text: a number is taken from a name that we would write, and from no other.

#![no_main]

use gdig_core::store::{shard_index, shard_name, MAX_SHARDS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for name in [text.to_owned(), format!("{text}.safetensors"), format!("{text:0>8}.safetensors")] {
        if let Some(index) = shard_index(&name) {
            assert!(index < MAX_SHARDS && shard_name(index) == name);
        }
    }
});
