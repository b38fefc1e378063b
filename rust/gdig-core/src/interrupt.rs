//! Long work that the caller can stop. The work runs on its own thread, and the calling thread watches it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::{Error, Result};

/// How often the calling thread asks whether to stop. Workers ask far more often.
const POLL: Duration = Duration::from_millis(50);

/// A report of a long computation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// A Lloyd iteration ended. `iteration` counts from 1. `inertia` is that before the update. `shift` says how far
    /// the centroids moved: the Euclidean norm over all of them.
    Iteration { iteration: usize, inertia: f64, shift: f64 },
    /// `done` of `total` rows are done.
    Rows { done: usize, total: usize },
}

/// What the work is given: it asks the supervisor whether to stop, and sends it reports.
pub struct Supervisor<'a> {
    stop: &'a AtomicBool,
    reports: Option<Sender<Progress>>,
}

static NEVER: AtomicBool = AtomicBool::new(false);

impl Supervisor<'_> {
    /// A supervisor that never stops the work and drops its reports.
    pub fn none() -> Supervisor<'static> {
        Supervisor { stop: &NEVER, reports: None }
    }

    /// `Err(Interrupted)` once the caller wants the work to end.
    #[inline]
    pub fn check(&self) -> Result<()> {
        // Relaxed: the flag publishes no other data.
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    pub fn report(&self, progress: Progress) {
        if let Some(reports) = &self.reports {
            // The receiver lives until this supervisor is dropped, so sending cannot fail.
            let _ = reports.send(progress);
        }
    }
}

/// Adds up the rows that threads have done, and reports them.
pub struct RowCount<'a> {
    done: AtomicUsize,
    total: usize,
    supervisor: &'a Supervisor<'a>,
}

impl<'a> RowCount<'a> {
    pub fn new(total: usize, supervisor: &'a Supervisor) -> RowCount<'a> {
        RowCount { done: AtomicUsize::new(0), total, supervisor }
    }

    pub fn add(&self, rows: usize) {
        let done = self.done.fetch_add(rows, Ordering::Relaxed) + rows;
        self.supervisor.report(Progress::Rows { done, total: self.total });
    }
}

/// Run `work` on a new thread. This thread calls `watch` for each report, and at least every 50 ms. When `watch`
/// returns false, the work ends with `Error::Interrupted`, and `watch` is not called again.
pub fn supervise<T: Send>(
    watch: &mut dyn FnMut(Option<Progress>) -> bool,
    work: impl FnOnce(&Supervisor) -> Result<T> + Send,
) -> Result<T> {
    let stop = AtomicBool::new(false);
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        let stop = &stop;
        // The sender moves into the thread, so the channel is disconnected however the work ends.
        let worker = scope.spawn(move || work(&Supervisor { stop, reports: Some(sender) }));
        let mut go_on = true;
        loop {
            let report = match receiver.recv_timeout(POLL) {
                Ok(progress) => Some(progress),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if go_on && !watch(report) {
                go_on = false;
                stop.store(true, Ordering::Relaxed);
            }
        }
        let result = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if go_on {
            result
        } else {
            Err(Error::Interrupted)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_arrive_in_order_before_the_result() {
        let mut seen = Vec::new();
        let result = supervise(
            &mut |report| {
                seen.extend(report);
                true
            },
            |supervisor| {
                (0..100).for_each(|done| supervisor.report(Progress::Rows { done, total: 100 }));
                Ok(7)
            },
        );
        assert_eq!(result.unwrap(), 7);
        assert_eq!(seen, (0..100).map(|done| Progress::Rows { done, total: 100 }).collect::<Vec<_>>());
    }

    #[test]
    fn endless_work_ends_when_the_watch_says_so() {
        let mut polls = 0;
        let result: Result<()> = supervise(
            &mut |_| {
                polls += 1;
                polls < 3
            },
            |supervisor| loop {
                supervisor.check()?;
                std::thread::yield_now();
            },
        );
        assert!(matches!(result, Err(Error::Interrupted)));
        assert_eq!(polls, 3);
    }
}
