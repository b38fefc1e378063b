//! The error type of the crate. The binding turns it into Python exceptions in one place (`errors.rs`).

use std::io;
use std::path::{Path, PathBuf};

/// The most bytes of a header. gdig writes kilobytes. A value of JSON takes up to twelve times its text in memory, so
/// no file makes the reader allocate more than some 200 MB.
pub const MAX_HEADER: usize = 16 << 20;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused an operation.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    /// The header of a file is not sound.
    #[error("{}: {source}", path.display())]
    Header { path: PathBuf, source: HeaderError },
    /// The data of a file do not match the checksum in its header.
    #[error(
        "{}: checksum differs: the header says {recorded}, the data give {computed}; make the file again",
        path.display()
    )]
    Checksum { path: PathBuf, recorded: String, computed: String },
    /// A file is sound, but of something else: of another run, another shard or another layer.
    #[error("{}: made from {got:?}, expected {expected:?}: the file belongs to something else", path.display())]
    Foreign { path: PathBuf, expected: String, got: String },
    /// A store, or a file in it, does not hold what the caller asked for.
    #[error("{}: {what}", path.display())]
    Store { path: PathBuf, what: String },
    /// Rows, labels or options do not fit.
    #[error("{0}")]
    Input(String),
    /// The caller asked the work to stop.
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
    #[error("{extra} bytes behind the last tensor: expected {expected} bytes in all")]
    Trailing { expected: usize, extra: usize },
    #[error("header length: expected at most {MAX_HEADER} bytes, got {0}")]
    TooLong(u64),
    #[error("header is not JSON: {0}")]
    Json(String),
    #[error("header: expected {expected} in {field}")]
    Field { field: String, expected: &'static str },
    #[error("tensor {tensor:?}: unknown dtype {dtype:?}")]
    Dtype { tensor: String, dtype: String },
    #[error("tensor {tensor:?}: expected a shape of fewer than 2^63 bytes, got {shape:?}")]
    Overflow { tensor: String, shape: Vec<usize> },
    #[error("tensor {tensor:?}: expected offsets {expected} bytes apart, as its shape asks for, got {start}..{end}")]
    Size { tensor: String, expected: usize, start: usize, end: usize },
    #[error("tensor {tensor:?}: expected offset {previous}, where the tensor before it ends, got {start}")]
    Gap { tensor: String, start: usize, previous: usize },
}
