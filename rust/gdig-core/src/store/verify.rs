//! The check of all checksums of a store.

use rayon::prelude::*;

use super::Store;
use crate::interrupt::Supervisor;
use crate::{Error, Result};

/// What `Store::verify` has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub shards: usize,
    pub rows: usize,
    pub bytes: u64,
    /// The absent shards that have a later shard.
    pub missing: Vec<usize>,
}

impl Store {
    /// Read every shard on several threads and compare its checksum. The error lists all bad shards.
    pub fn verify(&self, supervisor: &Supervisor) -> Result<Report> {
        let present = self.shard_indices()?;
        let last = present.last().copied();
        let check = |&index: &usize| -> Result<(usize, u64)> {
            supervisor.check()?;
            let shard = self.shard_header(index)?;
            if Some(index) != last && shard.len() != self.rows_per_shard {
                let what =
                    format!("{} rows: expected {} in a shard that is not the last", shard.len(), self.rows_per_shard);
                return Err(Error::store(shard.file.path(), what));
            }
            shard.file.verify(&|| supervisor.check())?;
            Ok((shard.len(), shard.file.len()))
        };
        let results: Vec<_> = present.par_iter().map(check).collect();
        supervisor.check()?;
        let bad: Vec<String> = results.iter().filter_map(|r| r.as_ref().err()).map(Error::to_string).collect();
        if !bad.is_empty() {
            let what = format!("{} of {} shards are bad:\n{}", bad.len(), present.len(), bad.join("\n"));
            return Err(Error::store(&self.path, what));
        }
        let mut report = Report { shards: present.len(), ..Report::default() };
        for (rows, bytes) in results.into_iter().flatten() {
            report.rows += rows;
            report.bytes += bytes;
        }
        report.missing = (0..last.unwrap_or(0)).filter(|index| present.binary_search(index).is_err()).collect();
        Ok(report)
    }
}
