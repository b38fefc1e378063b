//! What is wrong with the label files of a store: each is compared with its checksum, the rows and the centroids.

use std::path::Path;

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::fingerprint::{of_fit, of_shard};
use crate::interrupt::Supervisor;
use crate::store::{shard_indices, shard_name, shortened, Damage, State, Store, TensorFile};
use crate::{Error, Result};

/// Compare the label files in `directory` with the store of `n_rows` rows and the centroids that they were made from,
/// on several threads. Returns what is wrong, by file. Absent files are not listed. The kernel that made the labels does
/// not count.
///
/// A file whose shard is missing or of something else is compared with the centroids alone; without `centroids`, it is
/// compared with its shard alone.
pub fn label_damage(
    store: &Store,
    n_rows: usize,
    centroids: Option<(&[f32], bool)>,
    directory: &Path,
    supervisor: &Supervisor,
) -> Result<Vec<(usize, Damage)>> {
    let per_shard = store.rows_per_shard();
    let n_shards = n_rows.div_ceil(per_shard);
    let centroids = centroids.map(|(centroids, unit)| (xxh3_64(bytemuck::cast_slice(centroids)), unit));
    let check = |index: usize| -> Result<()> {
        let file = TensorFile::open_sound(&directory.join(shard_name(index)), &|| supervisor.check())?;
        let span = index * per_shard..n_rows.min((index + 1) * per_shard);
        let fit = centroids.map(|(hash, unit_normalize)| of_fit(hash, unit_normalize, &span));
        expect(&file, fit, of_shard(store, index).ok())
    };
    let damage = |index| -> Result<_> { Ok(Damage::of(check(index))?.map(|damage| (index, damage))) };
    let (wanted, surplus): (Vec<_>, Vec<_>) =
        shard_indices(directory)?.into_iter().partition(|&index| index < n_shards);
    let bad: Result<Vec<_>> = wanted.into_par_iter().map(damage).collect();
    let mut damage: Vec<_> = bad?.into_iter().flatten().collect();
    damage.extend(surplus.into_iter().map(|index| {
        let file = directory.join(shard_name(index));
        let what = format!("{}: expected no labels after those of {n_shards} shards", file.display());
        (index, Damage { state: State::Foreign, what })
    }));
    Ok(damage)
}

/// Check the halves of what a file was made from; of an unknown half, any is accepted.
fn expect(file: &TensorFile, fit: Option<String>, rows: Option<String>) -> Result<()> {
    let (got_fit, got_rows) = file.made_from().split_once(' ').unwrap_or((file.made_from(), ""));
    let is = |got: &str, expected: &Option<String>| expected.as_deref().is_none_or(|expected| got == expected);
    if is(got_fit, &fit) && is(got_rows, &rows) {
        return Ok(());
    }
    let named = |half: Option<String>| half.unwrap_or_else(|| "(any)".into());
    let expected = format!("{} {}", named(fit), named(rows));
    Err(Error::Foreign { path: file.path().into(), expected, got: shortened(file.made_from()) })
}
