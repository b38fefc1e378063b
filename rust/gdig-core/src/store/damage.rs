//! What is wrong with files: damaged, missing, or of something else. Files are read on several threads.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Store, TensorFile};
use crate::interrupt::Supervisor;
use crate::{Error, Result};

/// The state of a file that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Missing,
    Damaged,
    Foreign,
    /// Sound, and without the rows that a step of growth adds to it.
    Short,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Missing => "missing",
            State::Damaged => "damaged",
            State::Foreign => "foreign",
            State::Short => "short",
        }
    }

    fn of(error: &Error) -> State {
        match error {
            Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => State::Missing,
            Error::Foreign { .. } => State::Foreign,
            _ => State::Damaged,
        }
    }
}

/// A file that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub state: State,
    pub what: String,
}

impl Damage {
    /// Nothing for a sound file; an interruption is no damage.
    pub(crate) fn of<T>(result: Result<T>) -> Result<Option<Damage>> {
        match result {
            Ok(_) => Ok(None),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => Ok(Some(Damage { state: State::of(&error), what: error.to_string() })),
        }
    }
}

/// Compare the checksum of each file, and what it was made from. `None` accepts any origin.
pub fn damage_of(files: &[(PathBuf, Option<String>)], supervisor: &Supervisor) -> Result<Vec<Option<Damage>>> {
    files.par_iter().map(|(path, made_from)| Damage::of(check(path, made_from.as_deref(), supervisor))).collect()
}

fn check(path: &Path, made_from: Option<&str>, supervisor: &Supervisor) -> Result<()> {
    let file = TensorFile::open_sound(path, &|| supervisor.check())?;
    made_from.map_or(Ok(()), |expected| file.expect(expected))
}

impl Store {
    /// Compare the shards on disk of a store of `n_rows` rows: checksum, place and rows. Returns what is wrong, by shard.
    /// A shard behind the last one is foreign. Absent shards are not listed: a forged number of rows has a million.
    pub fn damage(&self, n_rows: usize, supervisor: &Supervisor) -> Result<Vec<(usize, Damage)>> {
        let shards = n_rows.div_ceil(self.rows_per_shard);
        let (wanted, surplus): (Vec<_>, Vec<_>) = self.shard_indices()?.into_iter().partition(|&index| index < shards);
        let check = |&index: &usize| -> Result<Option<(usize, Damage)>> {
            supervisor.check()?;
            let rows = (n_rows - index * self.rows_per_shard).min(self.rows_per_shard);
            let mut short = false;
            let shard = self.shard(index).and_then(|shard| match shard.len() {
                n if n == rows => Ok(()),
                n => {
                    short = n < rows && self.grows_at(index * self.rows_per_shard + n);
                    Err(Error::store(shard.file.path(), format!("{n} rows: expected {rows}")))
                }
            });
            let damage = Damage::of(shard)?;
            let state = |damage: Damage| if short { Damage { state: State::Short, ..damage } } else { damage };
            Ok(damage.map(|damage| (index, state(damage))))
        };
        let bad: Result<Vec<_>> = wanted.par_iter().map(check).collect();
        let mut damage: Vec<_> = bad?.into_iter().flatten().collect();
        damage.extend(surplus.into_iter().map(|index| {
            let what = format!("{}: expected no shard after {shards} of them", self.shard_path(index).display());
            (index, Damage { state: State::Foreign, what })
        }));
        damage.sort_by_key(|(index, _)| *index);
        Ok(damage)
    }
}
