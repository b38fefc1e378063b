//! One error type; the bindings turn it into Python exceptions in one place.

use std::io;
use std::path::{Path, PathBuf};

/// Readers of safetensors refuse longer headers, and so do we: nobody can make us allocate more.
pub const MAX_HEADER: usize = 100_000_000;

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

/// Why a header is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("truncated: expected at least {expected} bytes, got {got}")]
    Short { expected: usize, got: usize },
    #[error("truncated: expected {expected} bytes, got {got}")]
    Truncated { expected: usize, got: usize },
    #[error("{extra} bytes after the last tensor: expected {expected} bytes in all")]
    Trailing { expected: usize, extra: usize },
    #[error("header length {0} is beyond the limit of {MAX_HEADER} bytes")]
    TooLong(u64),
    #[error("header is not JSON: {0}")]
    Json(String),
    #[error("header: expected {expected} in {field}")]
    Field { field: String, expected: &'static str },
    #[error("tensor {tensor:?}: unknown dtype {dtype:?}")]
    Dtype { tensor: String, dtype: String },
    #[error("tensor {tensor:?}: shape {shape:?} overflows")]
    Overflow { tensor: String, shape: Vec<usize> },
    #[error("tensor {tensor:?}: its shape takes {expected} bytes, its offsets give {start}..{end}")]
    Size { tensor: String, expected: usize, start: usize, end: usize },
    #[error("tensor {tensor:?}: starts at offset {start}, but the one before it ends at {previous}")]
    Gap { tensor: String, start: usize, previous: usize },
}
