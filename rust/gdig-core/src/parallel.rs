//! Work on several threads. The number of threads changes neither the result nor the error.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::Result;

#[cfg(fuzzing)]
pub use on_the_caller::{thread_pool, ThreadPool};
#[cfg(not(fuzzing))]
pub use on_threads::{thread_pool, ThreadPool};

/// Do `work` on every item. The threads of the pool begin the items in order, which suits a disk. The error is that of
/// the first failing item, so the row that it names does not depend on the threads.
pub fn in_order<I: Send>(items: impl Iterator<Item = I> + Send, work: impl Fn(I) -> Result<()> + Sync) -> Result<()> {
    let failed = AtomicBool::new(false);
    let error = |(i, item): (usize, I)| {
        let error = work(item).err()?;
        failed.store(true, Ordering::Relaxed);
        Some((i, error))
    };
    let begun = items.take_while(|_| !failed.load(Ordering::Relaxed)).enumerate();
    let first = begun.par_bridge().filter_map(error).min_by_key(|(i, _)| *i);
    first.map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(not(fuzzing))]
mod on_threads {
    pub use rayon::ThreadPool;

    use crate::{Error, Result};

    /// A pool of threads for one call. rayon's global pool does not survive a fork, and a data loader forks.
    pub fn thread_pool(n_threads: usize) -> Result<ThreadPool> {
        let built = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build();
        built.map_err(|error| Error::input(format!("cannot start {n_threads} threads: {error}")))
    }
}

/// For rust/fuzz, which makes the calling thread rayon's only one. To start threads under a sanitizer takes a hundred
/// times as long as the work on a file of some rows.
#[cfg(fuzzing)]
mod on_the_caller {
    use crate::Result;

    pub struct ThreadPool;

    impl ThreadPool {
        pub fn install<T>(&self, work: impl FnOnce() -> T) -> T {
            work()
        }
    }

    pub fn thread_pool(_n_threads: usize) -> Result<ThreadPool> {
        Ok(ThreadPool)
    }
}
