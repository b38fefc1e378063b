//! The files whose checksum this process has compared. A file is compared when it is first read, and not again while it
//! stays as it is.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Two changes within a tick of the clock give the same times, so a file that has just changed is not remembered.
const SETTLED: Duration = Duration::from_millis(50);
/// Entries at which the list is begun anew, so that no store makes it large.
const MOST: usize = 1 << 20;

static SOUND: LazyLock<Mutex<HashSet<Identity>>> = LazyLock::new(Mutex::default);

/// What changes with every write to a file: device and number, length, and the times of the last change.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    file: (u64, u64),
    length: u64,
    times: [(i64, i64); 2],
}

impl Identity {
    #[cfg(unix)]
    pub fn of(file: &File) -> io::Result<Identity> {
        use std::os::unix::fs::MetadataExt;
        let status = file.metadata()?;
        let times = [(status.mtime(), status.mtime_nsec()), (status.ctime(), status.ctime_nsec())];
        Ok(Identity { file: (status.dev(), status.ino()), length: status.len(), times })
    }

    /// Without numbers of files nothing is remembered, so each file is compared whenever it is opened.
    #[cfg(not(unix))]
    pub fn of(file: &File) -> io::Result<Identity> {
        Ok(Identity { file: (0, 0), length: file.metadata()?.len(), times: [(i64::MAX, 0); 2] })
    }

    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.times.iter().all(|&(seconds, nanoseconds)| {
            let changed = u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000);
            let settled = u128::from(changed) + nanoseconds.unsigned_abs() as u128 + SETTLED.as_nanos();
            settled < now.as_nanos()
        })
    }
}

/// Whether the file has been compared, and has not changed since.
pub fn is_sound(identity: &Identity) -> bool {
    SOUND.lock().unwrap_or_else(PoisonError::into_inner).contains(identity)
}

/// Remember that the file was sound.
pub fn remember(identity: Identity) {
    if identity.is_settled() {
        let mut sound = SOUND.lock().unwrap_or_else(PoisonError::into_inner);
        if sound.len() >= MOST {
            sound.clear();
        }
        sound.insert(identity);
    }
}
