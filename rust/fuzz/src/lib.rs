//! What the targets have in common: a folder in memory, and one thread. So a million executions take minutes.

use std::path::PathBuf;

/// An empty folder for the life of the process, in memory where the system has a place for that. The calling thread
/// becomes the only one of rayon.
pub fn start() -> PathBuf {
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().expect("the first pool");
    let parent = Some(PathBuf::from("/dev/shm")).filter(|path| path.is_dir()).unwrap_or_else(std::env::temp_dir);
    tempfile::Builder::new().prefix("gdig-fuzz").tempdir_in(&parent).expect("a folder").keep()
}
