//! What a label file was made from: the centroids, and the rows of its shard. Each has a half of its own, so that a
//! file can be compared with one of them where the other is lost.

use std::ops::Range;

use xxhash_rust::xxh3::{xxh3_64, Xxh3};

use crate::rows::Source;
use crate::store::Store;
use crate::Result;

/// Both halves, of the rows of `span`.
pub fn fingerprint(source: &Source, centroids: &[f32], unit_normalize: bool, span: &Range<usize>) -> Result<String> {
    let rows = match source {
        Source::Array(rows) => {
            let mut hash = Xxh3::new();
            rows.slice(span.start, span.end).hash_into(&mut hash);
            format!("{:016x}", hash.digest())
        }
        Source::Store { store, .. } => of_shard(store, span.start / store.rows_per_shard())?,
    };
    Ok(format!("{} {rows}", of_fit(xxh3_64(bytemuck::cast_slice(centroids)), unit_normalize, span)))
}

/// The half of the fit: of the hash of its centroids, and the numbers of the rows.
pub fn of_fit(centroids: u64, unit_normalize: bool, span: &Range<usize>) -> String {
    let mut hash = Xxh3::new();
    hash.update(&centroids.to_le_bytes());
    hash.update(&[u8::from(unit_normalize)]);
    hash.update(&(span.start as u64).to_le_bytes());
    hash.update(&(span.end as u64).to_le_bytes());
    format!("{:016x}", hash.digest())
}

/// The half of the rows: the checksum of a shard stands for its rows.
pub fn of_shard(store: &Store, index: usize) -> Result<String> {
    store.shard_header(index)?.file.recorded_checksum().map(str::to_owned)
}
