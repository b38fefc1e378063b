//! Files that are complete or absent.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// Write to a temporary name in the same directory, sync, rename, sync the directory. After a failure the temporary
/// file is gone and `path` is as before.
pub fn write_atomic(path: &Path, pieces: &[&[u8]]) -> Result<()> {
    let (directory, name) = split(path)?;
    remove_leftovers(directory, |of| of == name);
    write_renamed(path, pieces)?;
    sync_directory(directory)
}

fn split(path: &Path) -> Result<(&Path, &str)> {
    let name =
        path.file_name().and_then(|name| name.to_str()).ok_or_else(|| Error::store(path, "expected a file name"))?;
    let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    Ok((directory, name))
}

/// `write_atomic` without the removal of leftovers and the sync of the directory.
pub fn write_renamed(path: &Path, pieces: &[&[u8]]) -> Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let (directory, name) = split(path)?;
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = directory.join(format!(".{name}.{}-{unique}.tmp", process_tag()));
    let written = write_synced(&temporary, pieces)
        .map_err(Error::io(path, "write"))
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::io(path, "rename its temporary file to")));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Distinguishes the temporary files of this process from those of a killed one. In a container both often have the
/// same process number.
fn process_tag() -> &'static str {
    static TAG: OnceLock<String> = OnceLock::new();
    TAG.get_or_init(|| {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        format!("{}-{started:x}", std::process::id())
    })
}

fn write_synced(path: &Path, pieces: &[&[u8]]) -> std::io::Result<()> {
    // A new file: a symbolic link in its place would lead to another one. A forked process has the tag of its parent, and
    // finds what another one has left.
    let mut file = File::create_new(path).or_else(|error| match error.kind() {
        ErrorKind::AlreadyExists => fs::remove_file(path).and_then(|()| File::create_new(path)),
        _ => Err(error),
    })?;
    for piece in pieces {
        file.write_all(piece)?;
    }
    file.sync_all()
}

/// Write the directory to disk. Only then does a rename survive a crash.
#[cfg(unix)]
pub fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory).and_then(|d| d.sync_all()).map_err(Error::io(directory, "sync"))
}

/// Windows has no such call: a directory cannot be opened as a file there, and NTFS keeps a journal of its names.
#[cfg(not(unix))]
pub fn sync_directory(_: &Path) -> Result<()> {
    Ok(())
}

/// Remove the temporary files of certain targets that a killed process has left. Another process may be writing the
/// other targets, so their files stay. Failures are ignored: such files take space, but nobody reads them.
pub fn remove_leftovers(directory: &Path, is_target: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let file = entry.file_name();
        // .NAME.PROCESS-NUMBER.tmp
        let names = file.to_str().and_then(|f| f.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.'));
        let Some((name, writer)) = names else { continue };
        if is_target(name) && !writer.starts_with(&format!("{}-", process_tag())) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
