//! What is wrong with the label files of a store: each is compared with its checksum, the rows and the centroids.

use std::path::{Path, PathBuf};

use super::fingerprint::fingerprint;
use crate::interrupt::Supervisor;
use crate::rows::Source;
use crate::store::{damage_of, shard_indices, shard_name, Damage, State, Store};
use crate::Result;

/// Compare the label files in `directory` with the store and the centroids that they were made from, on several
/// threads. Returns what is wrong, by file. The kernel that made the labels does not count.
pub fn label_damage(
    store: &Store,
    centroids: &[f32],
    unit_normalize: bool,
    directory: &Path,
    supervisor: &Supervisor,
) -> Result<Vec<(usize, Damage)>> {
    let source = Source::store(store)?;
    let (rows, per_shard) = (source.len(), store.rows_per_shard());
    let n_shards = rows.div_ceil(per_shard);
    let expected = |index: usize| -> Result<(PathBuf, Option<String>)> {
        let span = index * per_shard..rows.min((index + 1) * per_shard);
        let made_from = fingerprint(&source, centroids, unit_normalize, &span)?;
        Ok((directory.join(shard_name(index)), Some(made_from)))
    };
    let files = (0..n_shards).map(expected).collect::<Result<Vec<_>>>()?;
    let bad = damage_of(&files, supervisor)?.into_iter().enumerate();
    let mut damage: Vec<_> = bad.filter_map(|(index, damage)| Some((index, damage?))).collect();
    let surplus = shard_indices(directory).unwrap_or_default().into_iter().filter(|&index| index >= n_shards);
    damage.extend(surplus.map(|index| {
        let file = directory.join(shard_name(index));
        let what = format!("{}: expected no labels after those of {n_shards} shards", file.display());
        (index, Damage { state: State::Foreign, what })
    }));
    Ok(damage)
}
