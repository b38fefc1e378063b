//! One error type; the bindings turn it into Python exceptions in one place.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::header::HeaderError;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    /// A file's header cannot be trusted.
    #[error("{}: {source}", path.display())]
    Header { path: PathBuf, source: HeaderError },
    /// A file's data do not match the checksum in its header.
    #[error("{}: checksum differs: the header says {recorded}, the data give {found}", path.display())]
    Checksum { path: PathBuf, recorded: String, found: String },
    /// A store or a file in it holds something else than asked for.
    #[error("{}: {what}", path.display())]
    Store { path: PathBuf, what: String },
    /// Rows, labels or options that cannot be worked with.
    #[error("{0}")]
    Input(String),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { path, action, source }
    }

    pub fn store(path: &Path, what: impl Into<String>) -> Error {
        Error::Store { path: path.to_path_buf(), what: what.into() }
    }

    pub fn input(what: impl Into<String>) -> Error {
        Error::Input(what.into())
    }
}
