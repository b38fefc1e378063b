//! Rows are fetched from the disk before a worker needs them.
//!
//! The rows lie in mapped files and are read in place. A thread runs ahead of the workers and tells the kernel which
//! pages they will need (`MADV_WILLNEED`), so that the workers do not wait for the disk. benches/reading.rs compares
//! this way with seven others.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Condvar, Mutex};

use super::source::{RowSet, Source};

/// Bytes fetched at once. Fewer leave the disk idle in between; more come late.
const STEP_BYTES: usize = 8 << 20;
/// Bytes fetched ahead of the workers.
const AHEAD_BYTES: usize = 64 << 20;

/// How far the workers are.
pub struct Readahead {
    /// The first position that no worker has begun. `usize::MAX` means that nothing is left to fetch.
    front: Mutex<usize>,
    moved: Condvar,
}

impl Readahead {
    /// A worker begins with the positions up to `position`.
    pub fn reached(&self, position: usize) {
        let mut front = self.front.lock().expect("no thread panics with the lock");
        if *front < position {
            *front = position;
            self.moved.notify_one();
        }
    }

    /// Wait until the workers are within reach of `position`. False means that they need no more.
    fn wait(&self, position: usize, reach: usize) -> bool {
        let front = self.front.lock().expect("no thread panics with the lock");
        let far = |front: &mut usize| front.saturating_add(reach) < position;
        *self.moved.wait_while(front, far).expect("no thread panics with the lock") < usize::MAX
    }
}

/// Do `work`, and fetch the pages ahead of it. The work takes the positions of `span` in order and says how far it is.
/// The rows of a list are not fetched ahead, because most pages between them are not needed.
pub fn with_readahead<T>(rows: RowSet, span: Range<usize>, work: impl FnOnce(&Readahead) -> T) -> T {
    let ahead = Readahead { front: Mutex::new(span.start), moved: Condvar::new() };
    let row_bytes = rows.source.dim() * rows.source.dtype().size();
    if rows.list.is_some() || span.len() * row_bytes <= STEP_BYTES || is_resident(rows.source) {
        return work(&ahead);
    }
    /// Ends the thread, even if the work panics.
    struct End<'a>(&'a Readahead);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.reached(usize::MAX);
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| fetch(rows.source, span, row_bytes, &ahead));
        let _end = End(&ahead);
        work(&ahead)
    })
}

fn fetch(source: &Source, span: Range<usize>, row_bytes: usize, ahead: &Readahead) {
    let step = (STEP_BYTES / row_bytes).max(1);
    // The fetched shards stay mapped until the workers have opened them.
    let mut held = VecDeque::new();
    let mut start = span.start;
    while start < span.end && ahead.wait(start, (AHEAD_BYTES / row_bytes).max(1)) {
        // If a shard cannot be opened, the worker gives the error.
        let Ok(place) = source.place(start) else { return };
        let rows = place.rows(start, span.end.min(start + step));
        pages::fetch(rows.bytes());
        start += rows.len();
        held.push_back(place);
        if held.len() > AHEAD_BYTES.div_ceil(STEP_BYTES) + 1 {
            held.pop_front();
        }
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
mod pages {
    const PAGE: usize = 4096;

    /// The pages that lie in `bytes` whole or in part: address and length.
    fn pages(bytes: &[u8]) -> (*mut libc::c_void, usize) {
        let start = bytes.as_ptr() as usize & !(PAGE - 1);
        (start as *mut _, bytes.as_ptr() as usize + bytes.len() - start)
    }

    /// Have the pages of `bytes` fetched, as a hint: where the kernel cannot, nothing happens.
    pub fn fetch(bytes: &[u8]) {
        let (start, len) = pages(bytes);
        // SAFETY: only pages of a slice that is alive are named, and the advice changes no contents.
        unsafe { libc::madvise(start, len, libc::MADV_WILLNEED) };
    }

    /// Are the pages of these bytes, as far as a few of them tell, in memory?
    pub fn are_resident(bytes: &[u8]) -> bool {
        const LOOKS: usize = 64;
        let looks = if bytes.is_empty() { 0 } else { LOOKS };
        (0..looks).all(|look| {
            let at = bytes.len() / LOOKS * look;
            let (start, _) = pages(&bytes[at..=at]);
            let mut residency = 0u8;
            // SAFETY: the page is one of a slice that is alive, and one byte is written for one page.
            let answered = unsafe { libc::mincore(start, PAGE, &mut residency) } == 0;
            answered && residency & 1 == 1
        })
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod pages {
    pub fn fetch(_: &[u8]) {}

    pub fn are_resident(_: &[u8]) -> bool {
        true
    }
}

/// Whether all rows are in memory, as far as a few pages of an array show. The shards of a store are not opened for the
/// answer, because advice about pages in memory costs next to nothing.
fn is_resident(source: &Source) -> bool {
    match source {
        Source::Array(rows) => pages::are_resident(rows.bytes()),
        Source::Store { .. } => false,
    }
}

#[cfg(all(test, not(miri)))]
pub mod tests {
    use super::*;
    use crate::convert::Rows;
    use crate::store::Store;
    use crate::Dtype;

    pub const DIM: usize = 64;
    pub const ROWS: usize = 3 * AHEAD_BYTES / (4 * DIM);
    const ROWS_PER_SHARD: usize = 50_000;

    /// More rows than are fetched ahead, row i at i on the first axis.
    pub fn store(directory: &std::path::Path) -> Store {
        let store = Store::create(directory, DIM, Dtype::F32, ROWS_PER_SHARD, false).unwrap();
        for (index, start) in (0..ROWS).step_by(ROWS_PER_SHARD).enumerate() {
            let stop = ROWS.min(start + ROWS_PER_SHARD);
            let x: Vec<f32> =
                (start * DIM..stop * DIM).map(|i| if i % DIM == 0 { (i / DIM) as f32 } else { 0.0 }).collect();
            let rows = Rows::new(Dtype::F32, DIM, bytemuck::cast_slice(&x), &[]).unwrap();
            store.write_shard(index, rows, &[]).unwrap();
        }
        store
    }

    #[test]
    fn work_that_ends_early_or_panics_ends_the_fetching() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let source = Source::store(&store).unwrap();
        let rows = RowSet { source: &source, list: None, unit_normalize: false };
        assert_eq!(with_readahead(rows, 0..ROWS, |_| 7), 7);
        let panics = || with_readahead(rows, 0..ROWS, |_| panic!("as meant"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    }

    #[test]
    fn what_is_in_memory_is_seen_to_be() {
        let x = vec![1u8; 1 << 20];
        assert!(pages::are_resident(&x) && pages::are_resident(&x[5..6]) && pages::are_resident(&[]));
    }
}
