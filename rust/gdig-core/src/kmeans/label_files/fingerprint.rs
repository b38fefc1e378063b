//! What a label file was made from: the centroids, and the rows of its shard.

use std::ops::Range;

use xxhash_rust::xxh3::Xxh3;

use crate::rows::Source;
use crate::Result;

/// A hash of the centroids and of the rows of `span`. The checksum of a shard stands for its rows.
pub fn fingerprint(source: &Source, centroids: &[f32], unit_normalize: bool, span: &Range<usize>) -> Result<String> {
    let mut hash = Xxh3::new();
    hash.update(bytemuck::cast_slice(centroids));
    hash.update(&[u8::from(unit_normalize)]);
    hash.update(&(span.start as u64).to_le_bytes());
    hash.update(&(span.end as u64).to_le_bytes());
    match source {
        Source::Array(rows) => rows.slice(span.start, span.end).hash_into(&mut hash),
        Source::Store { store, .. } => {
            let shard = store.shard_header(span.start / store.rows_per_shard())?;
            hash.update(shard.file.recorded_checksum()?.as_bytes());
        }
    }
    Ok(format!("{:016x}", hash.digest()))
}
