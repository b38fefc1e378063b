//! Rows are fetched from the disk before a worker needs them.
//!
//! The rows lie in mapped files and are read in place. A thread runs ahead of the workers and tells the kernel which
//! pages they will need (`MADV_WILLNEED`). So the workers do not wait for the disk. Rows of a store that exceed the free
//! memory would not stay in the page cache for the next pass. They are read past it ([`super::ring`]).
//! benches/reading.rs compares both ways with seven others.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Condvar, Mutex};

use super::free_memory::free_memory;
use super::open_shards::Place;
use super::pages;
use super::ring::{Ring, READERS};
use super::source::{RowSet, Source};
use crate::{Error, Result};

pub use super::ring::Items;

/// Bytes fetched at once. Fewer leave the disk idle in between; more come late.
const STEP_BYTES: usize = 8 << 20;
/// Bytes fetched ahead of the workers.
const AHEAD_BYTES: usize = 64 << 20;

/// How the rows of a store come to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Through the page cache, mapped.
    Mapped,
    /// Past the page cache, where the file system grants it.
    Direct,
}

impl Reading {
    /// What the environment variable GDIG_READING names. Where it is unset or empty, rows of `bytes` bytes that exceed
    /// the free memory are read directly.
    fn choose(bytes: u64) -> Result<Reading> {
        match std::env::var("GDIG_READING").as_deref() {
            Ok("mapped") => Ok(Reading::Mapped),
            Ok("direct") => Ok(Reading::Direct),
            Ok("") | Err(_) if free_memory().is_some_and(|free| bytes > free) => Ok(Reading::Direct),
            Ok("") | Err(_) => Ok(Reading::Mapped),
            Ok(other) => Err(Error::input(format!("GDIG_READING: expected mapped or direct, got {other:?}"))),
        }
    }
}

/// How far the workers are.
pub struct Readahead<'a> {
    /// The first position that no worker has begun. `usize::MAX` means that nothing is left to fetch.
    front: Mutex<usize>,
    moved: Condvar,
    ring: Option<Ring<'a>>,
}

/// An item of the work, which a worker has begun.
pub struct Item<'a> {
    ring: Option<(&'a Ring<'a>, Range<usize>)>,
}

impl<'a> Item<'a> {
    /// Rows that are in memory, `row` the first of them that the worker needs. `None` means that the worker opens the
    /// shard itself.
    pub fn place(&self, row: usize) -> Option<Place<'a>> {
        let (ring, span) = self.ring.as_ref().filter(|(_, span)| span.contains(&row))?;
        ring.take(row, span)
    }
}

impl Drop for Item<'_> {
    fn drop(&mut self) {
        if let Some((ring, span)) = &self.ring {
            ring.finish(span);
        }
    }
}

impl Readahead<'_> {
    /// A worker begins with the item of these positions.
    pub fn begin(&self, span: Range<usize>) -> Item<'_> {
        self.advance(span.start);
        let ring = self.ring.as_ref().map(|ring| {
            ring.begin(span.clone());
            (ring, span)
        });
        Item { ring }
    }

    /// No item before `position` is left for this process.
    pub fn reached(&self, position: usize) {
        self.advance(position);
        if let Some(ring) = &self.ring {
            ring.reached(position);
        }
    }

    fn advance(&self, position: usize) {
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

    fn end(&self) {
        self.advance(usize::MAX);
        if let Some(ring) = &self.ring {
            ring.end();
        }
    }
}

/// Do `work`, and fetch the rows ahead of it. The work takes the items of `span` in order and says which it begins. The
/// rows of a list are not fetched ahead, because most pages between them are not needed.
pub fn with_readahead<T>(
    rows: RowSet,
    span: Range<usize>,
    items: Items,
    work: impl FnOnce(&Readahead) -> Result<T>,
) -> Result<T> {
    let row_bytes = rows.source.dim() * rows.source.dtype().size();
    if rows.list.is_some() || span.len() * row_bytes <= STEP_BYTES || is_resident(rows.source) {
        return work(&Readahead { front: Mutex::default(), moved: Condvar::new(), ring: None });
    }
    let reading = Reading::choose((rows.source.len() * row_bytes) as u64)?;
    with_reading(reading, rows.source, span, items, work)
}

fn with_reading<T>(
    reading: Reading,
    source: &Source,
    span: Range<usize>,
    items: Items,
    work: impl FnOnce(&Readahead) -> Result<T>,
) -> Result<T> {
    let ring = if reading == Reading::Direct { Ring::new(source, &span, items) } else { None };
    let ahead = Readahead { front: Mutex::new(span.start), moved: Condvar::new(), ring };
    /// Ends the threads, even if the work panics.
    struct End<'a>(&'a Readahead<'a>);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.end();
        }
    }
    std::thread::scope(|scope| {
        match &ahead.ring {
            Some(ring) => (0..READERS).for_each(|_| drop(scope.spawn(|| ring.read()))),
            None => drop(scope.spawn(|| fetch(source, span, &ahead))),
        }
        let _end = End(&ahead);
        work(&ahead)
    })
}

fn fetch(source: &Source, span: Range<usize>, ahead: &Readahead) {
    let row_bytes = source.dim() * source.dtype().size();
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::{Block, Reader};
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

    /// Every row of a store, by two workers that take items in order: as `reading` brings it, and in which way.
    fn read_all(reading: Reading, store: &Store, items: Items) -> (Vec<f32>, usize) {
        let source = Source::store(store).unwrap();
        let rows = RowSet { source: &source, list: None, unit_normalize: false };
        let (first_columns, n_direct) = (Mutex::new(vec![f32::NAN; ROWS]), AtomicUsize::new(0));
        let spans = Mutex::new(items.spans(ROWS).into_iter());
        let outcome = with_reading(reading, &source, 0..ROWS, items, |ahead| {
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| loop {
                        let Some(span) = spans.lock().unwrap().next() else { return };
                        let mut reader = Reader::for_item(rows, ahead.begin(span.clone()));
                        let mut block = Block::default();
                        for first in span.clone().step_by(300) {
                            let view = reader.view(first, span.end.min(first + 300), &mut block).unwrap();
                            assert_eq!(view.positions.len(), view.rows.len());
                            let mut x = vec![0f32; view.rows.len() * DIM];
                            view.rows.decode(&mut x);
                            let columns = x.chunks(DIM).map(|x| x[0]);
                            first_columns.lock().unwrap()[first..].iter_mut().zip(columns).for_each(|(to, x)| *to = x);
                            n_direct.fetch_add(usize::from(reader.reads_directly()), Ordering::Relaxed);
                        }
                    });
                }
            });
            Ok(())
        });
        outcome.unwrap();
        (first_columns.into_inner().unwrap(), n_direct.into_inner())
    }

    impl Items {
        fn spans(&self, end: usize) -> Vec<Range<usize>> {
            let bases = (0..end).step_by(self.restart.min(end));
            let of = |base: usize| (base..end.min(base.saturating_add(self.restart))).step_by(self.rows);
            let starts: Vec<usize> = bases.flat_map(of).collect();
            let ends = starts.iter().skip(1).copied().chain([end]);
            starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
        }
    }

    /// Drop the pages of the shards from the page cache.
    fn evict(store: &Store) {
        use std::os::fd::AsRawFd;
        for entry in std::fs::read_dir(store.path()).unwrap() {
            let file = std::fs::File::open(entry.unwrap().path()).unwrap();
            // SAFETY: advice about a file that is open.
            assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
        }
    }

    #[test]
    fn direct_reads_bring_the_same_rows() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let expected: Vec<f32> = (0..ROWS).map(|i| i as f32).collect();
        // So that a shard counts as compared, and is not read again for that.
        std::thread::sleep(std::time::Duration::from_millis(100));
        let every = |rows, restart| Items { rows, restart };
        // Items smaller than a window, larger, of one shard each, anew in the middle of a shard.
        for items in [every(2048, usize::MAX), every(100_000, usize::MAX), every(1000, 70_300), every(ROWS, ROWS)] {
            read_all(Reading::Mapped, &store, items);
            evict(&store);
            let (columns, n_direct) = read_all(Reading::Direct, &store, items);
            assert!(columns == expected);
            let granted = store.shard(0).unwrap().has_direct_reads();
            assert_eq!(n_direct > 0, granted, "a system that grants direct reads has some");
            let (columns, n_direct) = read_all(Reading::Direct, &store, items);
            assert!(columns == expected);
            assert!(!granted || n_direct > 0, "direct reads leave nothing in the page cache");
            // What is in the page cache is not read again.
            read_all(Reading::Mapped, &store, items);
            assert_eq!(read_all(Reading::Direct, &store, items), (expected.clone(), 0));
        }
    }

    #[test]
    fn work_that_ends_early_or_panics_ends_the_fetching() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let source = Source::store(&store).unwrap();
        let items = Items { rows: 1000, restart: usize::MAX };
        for reading in [Reading::Mapped, Reading::Direct] {
            let begin = |ahead: &Readahead| Ok(ahead.begin(0..1000).place(0).is_some());
            let is_direct = reading == Reading::Direct;
            assert_eq!(with_reading(reading, &source, 0..ROWS, items, begin).unwrap(), is_direct);
            let panics = || with_reading::<()>(reading, &source, 0..ROWS, items, |_| panic!("as meant"));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        }
    }
}
