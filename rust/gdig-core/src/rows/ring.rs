//! Rows that do not fit in memory are read directly into a ring of buffers, ahead of the workers.
//!
//! The work consists of items, spans of rows that the workers begin in order and read from start to end. An item is cut
//! into windows, each with rows of one shard. Threads read windows: first those of the items that are begun, so that no
//! worker waits, then those of the items to come. A worker takes the window that it needs out of the ring, and the
//! window's memory goes back when the worker asks for the next. If a window is not there, the worker reads it itself.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::buffer::Pool;
use super::open_shards::{OpenShards, Place};
use super::source::Source;
use crate::store::Store;

/// Threads that read. Fewer leave the disk idle between two reads.
pub const READERS: usize = 4;
/// The most bytes of a window.
const WINDOW_BYTES: usize = 8 << 20;
/// Bytes of the windows in the ring from which on no item to come is read.
const RING_BYTES: usize = 64 << 20;
/// Windows that an item has in the ring while a worker computes with another one.
const LEAD: usize = 2;

/// How the work divides the rows: an item every `rows` rows, and anew at each multiple of `restart`.
#[derive(Clone, Copy)]
pub struct Items {
    pub rows: usize,
    pub restart: usize,
}

pub struct Ring<'a> {
    store: &'a Store,
    open: &'a OpenShards,
    end: usize,
    items: Items,
    rows_per_shard: usize,
    window_rows: usize,
    /// The most rows in the ring from which on no item to come is read.
    ring_rows: usize,
    pool: Arc<Pool>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By the first row of each.
    windows: BTreeMap<usize, Window>,
    begun: Vec<Begun>,
    /// The first row of the items to come that no thread has begun to read.
    front: usize,
    ended: bool,
}

struct Window {
    end: usize,
    content: Content,
}

enum Content {
    Coming,
    /// `None` if the shard cannot be opened: the worker opens it again and has the error.
    There(Option<Place<'static>>),
}

/// An item that a worker has begun.
struct Begun {
    /// The first row that no thread has begun to read.
    next: usize,
    span: Range<usize>,
}

impl State {
    /// Windows in the ring of the rows `span`.
    fn n_windows(&self, span: &Range<usize>) -> usize {
        self.windows.range(span.clone()).count()
    }
}

impl<'a> Ring<'a> {
    /// `None` if the rows are not in files.
    pub fn new(source: &'a Source<'a>, span: &Range<usize>, items: Items) -> Option<Ring<'a>> {
        let Source::Store { store, open, .. } = source else { return None };
        let rows_of = |bytes: usize| (bytes / (source.dim() * source.dtype().size())).max(1);
        Some(Ring {
            store,
            open,
            end: span.end,
            items,
            rows_per_shard: store.rows_per_shard(),
            window_rows: rows_of(WINDOW_BYTES),
            ring_rows: rows_of(RING_BYTES),
            pool: Arc::default(),
            state: Mutex::new(State { front: span.start, ..State::default() }),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the lock")
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).expect("no thread panics with the lock")
    }

    /// Read windows until the work has ended.
    pub fn read(&self) {
        let mut state = self.lock();
        while !state.ended {
            let Some(span) = self.next(&mut state) else {
                state = self.wait(state);
                continue;
            };
            state.windows.insert(span.start, Window { end: span.end, content: Content::Coming });
            drop(state);
            let place = self.window(&span);
            state = self.lock();
            // Nobody wants the window of an item that has ended early.
            if let Some(window) = state.windows.get_mut(&span.start) {
                window.content = Content::There(place);
            }
            self.changed.notify_all();
        }
    }

    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// No worker of this process begins an item before `row` any more.
    pub fn reached(&self, row: usize) {
        let mut state = self.lock();
        state.front = state.front.max(row);
        let State { windows, begun, .. } = &mut *state;
        windows.retain(|first, _| *first >= row || begun.iter().any(|item| item.span.contains(first)));
        self.changed.notify_all();
    }

    /// A worker begins with the item of these rows.
    pub fn begin(&self, span: Range<usize>) {
        let mut state = self.lock();
        let mut next = span.start;
        while let Some(window) = state.windows.get(&next).filter(|_| next < span.end) {
            next = window.end;
        }
        state.front = state.front.max(span.end);
        state.begun.push(Begun { next, span });
        self.changed.notify_all();
    }

    /// The worker is done with the item that begins at `start`.
    pub fn finish(&self, span: &Range<usize>) {
        let mut state = self.lock();
        state.begun.retain(|item| item.span.start != span.start);
        state.windows.retain(|first, _| !span.contains(first));
        self.changed.notify_all();
    }

    /// The window of the item `span` that has `row`, taken out of the ring.
    pub fn take(&self, row: usize, span: &Range<usize>) -> Option<Place<'static>> {
        let mut state = self.lock();
        while let Some((&first, window)) = state.windows.range(..=row).next_back().filter(|(_, w)| row < w.end) {
            if let Content::There(_) = window.content {
                let window = state.windows.remove(&first).expect("it is there");
                self.changed.notify_all();
                let Content::There(place) = window.content else { unreachable!("as seen above") };
                return place;
            }
            state = self.wait(state);
        }
        let window = row..self.cut(row, span.end);
        if let Some(item) = state.begun.iter_mut().find(|item| item.span.start == span.start) {
            item.next = item.next.max(window.end);
        }
        drop(state);
        self.window(&window)
    }

    /// The rows that a thread shall read next.
    fn next(&self, state: &mut State) -> Option<Range<usize>> {
        let lead = |item: &Begun| state.n_windows(&item.span);
        let hungry = state.begun.iter().enumerate().filter(|(_, item)| item.next < item.span.end);
        let least = hungry.map(|(i, item)| (lead(item), i)).min().filter(|(lead, _)| *lead < LEAD);
        if let Some((_, i)) = least {
            let item = &mut state.begun[i];
            let span = item.next..self.cut(item.next, item.span.end);
            item.next = span.end;
            return Some(span);
        }
        let in_ring: usize = state.windows.iter().map(|(first, window)| window.end - first).sum();
        if state.front >= self.end || in_ring >= self.ring_rows {
            return None;
        }
        let Items { rows, restart } = self.items;
        let base = state.front / restart * restart;
        let stop = base.saturating_add(restart).min(base + ((state.front - base) / rows + 1) * rows).min(self.end);
        let span = state.front..self.cut(state.front, stop);
        state.front = span.end;
        Some(span)
    }

    /// The end of the window that begins at `first`, within one shard.
    fn cut(&self, first: usize, stop: usize) -> usize {
        stop.min(first + self.window_rows).min((first / self.rows_per_shard + 1) * self.rows_per_shard)
    }

    fn window(&self, span: &Range<usize>) -> Option<Place<'static>> {
        Some(self.open.place(self.store, span.start).ok()?.window(span.start, span.end, &self.pool))
    }
}
