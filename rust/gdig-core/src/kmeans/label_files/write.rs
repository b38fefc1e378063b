//! The writer of label files, shard by shard. A file that is already there stays.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::ScopedJoinHandle;

use super::fingerprint::fingerprint;
use super::{DISTANCES, FIRST_ROW, LABELS, ROUNDING};
use crate::interrupt::{Progress, Supervisor};
use crate::kmeans::predict::{Labeller, Model, INVALID, STEP};
use crate::parallel::{in_order, thread_pool, ThreadPool};
use crate::rows::readahead::{with_readahead, Item, Items};
use crate::rows::{RowSet, Source};
use crate::store::{
    remove_leftovers, shard_index, shard_indices, shard_name, sync_directory, write_one_of_many, TensorData,
    TensorFile, MADE_FROM,
};
use crate::{Dtype, Error, Result};

/// The files that may wait for a writer. The sync of a file takes longer than the computation of a small one.
const WAITING: usize = 16;
/// The threads that write. Several of them let the disk sync several files at once.
const WRITERS: usize = 4;

/// Write a label file for each shard of the source; of an array, for each `rows_per_shard` rows. A file that was made
/// from the same rows and centroids stays.
///
/// With `shards`, write the files of these shards alone, so that several processes can share a directory. The process
/// with the last shard removes the files of an earlier, longer source. No process touches other files.
pub fn write_labels(
    source: &Source,
    model: &Model,
    directory: &Path,
    rows_per_shard: usize,
    shards: Option<Range<usize>>,
    supervisor: &Supervisor,
) -> Result<Vec<PathBuf>> {
    model.check(source)?;
    let rows_per_shard = if let Source::Store { store, .. } = source { store.rows_per_shard() } else { rows_per_shard };
    if rows_per_shard == 0 {
        return Err(Error::input("rows_per_shard: expected at least 1, got 0"));
    }
    if directory.join("store.json").exists() {
        return Err(Error::store(
            directory,
            "expected a directory without a store, because labels would replace its shards; choose another one",
        ));
    }
    fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
    sync_directory(directory)?;
    let rows = RowSet { source, list: None, unit_normalize: model.unit_normalize };
    let labeller = Labeller::new(rows, model, supervisor)?;
    let n_shards = rows.len().div_ceil(rows_per_shard);
    let shards = shards.unwrap_or(0..n_shards);
    if shards.start > shards.end || shards.end > n_shards {
        return Err(Error::input(format!("shards: expected a range within 0..{n_shards}, got {shards:?}")));
    }
    let done = Mutex::new(Done { rows: shards.start * rows_per_shard, later: BTreeMap::new() });
    let failed = AtomicBool::new(false);
    let job = Job { labeller, model, directory, rows_per_shard, shards: shards.clone(), done, failed };
    remove_leftovers(directory, |name| shard_index(name).is_some_and(|index| shards.contains(&index)));
    let (labelled, written) = job.run(&thread_pool(model.n_threads)?);
    // When the writers have failed, the labelling fails too. So the error of a writer comes first.
    written.and(labelled)?;
    if shards.end == n_shards {
        remove_surplus(directory, n_shards)?;
    }
    sync_directory(directory)?;
    Ok(shards.map(|index| directory.join(shard_name(index))).collect())
}

struct Job<'a> {
    labeller: Labeller<'a>,
    model: &'a Model<'a>,
    directory: &'a Path,
    rows_per_shard: usize,
    shards: Range<usize>,
    done: Mutex<Done>,
    /// A file could not be written.
    failed: AtomicBool,
}

/// The rows whose files are complete.
struct Done {
    /// The files of all rows before this row are complete.
    rows: usize,
    /// And those of these later rows, from start to end.
    later: BTreeMap<usize, usize>,
}

/// The file of a shard whose rows are being labelled.
struct Pending {
    path: PathBuf,
    span: Range<usize>,
    /// The labels and the distances of the whole span.
    values: Mutex<(Vec<u32>, Vec<f32>)>,
    steps_left: AtomicUsize,
}

type Files = SyncSender<Arc<Pending>>;

impl Job<'_> {
    /// The rows of a shard.
    fn span(&self, index: usize) -> Range<usize> {
        let start = index * self.rows_per_shard;
        start..self.labeller.rows.len().min(start + self.rows_per_shard)
    }

    /// The rows of all shards to label.
    fn rows(&self) -> Range<usize> {
        let n_rows = self.labeller.rows.len();
        n_rows.min(self.shards.start * self.rows_per_shard)..n_rows.min(self.shards.end * self.rows_per_shard)
    }

    /// Label on the threads of the pool, and write on other threads. Returns the result of both.
    fn run(&self, pool: &ThreadPool) -> (Result<()>, Result<()>) {
        let (sender, receiver) = sync_channel(WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        std::thread::scope(|scope| {
            let writer = |receiver: Arc<Mutex<Receiver<_>>>| scope.spawn(move || self.write_all(&receiver));
            let writers: Vec<_> = (0..WRITERS).map(|_| writer(receiver.clone())).collect();
            // The writers own the receiver. When all writers have failed, sending fails.
            drop(receiver);
            let labelled = pool.install(|| {
                let items = Items { rows: STEP, restart: self.rows_per_shard };
                with_readahead(self.labeller.rows, self.rows(), items, |ahead| {
                    in_order(self.steps(), |step: Result<(Arc<Pending>, Range<usize>)>| {
                        let (pending, span) = step?;
                        let item = ahead.begin(span.clone());
                        self.label(&pending, span, item, &sender)
                    })
                })
            });
            // The writers end when they have written all waiting files.
            drop(sender);
            let join =
                |writer: ScopedJoinHandle<Result<()>>| writer.join().unwrap_or_else(|panic| resume_unwind(panic));
            (labelled, writers.into_iter().map(join).fold(Ok(()), Result::and))
        })
    }

    /// The steps of all files that are not done, in order.
    fn steps(&self) -> impl Iterator<Item = Result<(Arc<Pending>, Range<usize>)>> + '_ {
        self.shards.clone().flat_map(move |index| {
            let span = self.span(index);
            let path = self.directory.join(shard_name(index));
            let is_done = match path.exists().then(|| self.fingerprint(&span)) {
                None => false,
                Some(Ok(made_from)) => is_done(&path, &made_from, self.rounding()),
                Some(Err(error)) => return vec![Err(error)].into_iter(),
            };
            if is_done {
                self.report(&span);
                return Vec::new().into_iter();
            }
            let values = Mutex::new((vec![INVALID; span.len()], vec![f32::NAN; span.len()]));
            let steps_left = AtomicUsize::new(span.len().div_ceil(STEP));
            let pending = Arc::new(Pending { path, span: span.clone(), values, steps_left });
            let step = |start| Ok((pending.clone(), start..span.end.min(start + STEP)));
            span.clone().step_by(STEP).map(step).collect::<Vec<_>>().into_iter()
        })
    }

    fn label(&self, pending: &Arc<Pending>, span: Range<usize>, item: Item, files: &Files) -> Result<()> {
        let (mut labels, mut distances) = (vec![INVALID; span.len()], vec![f32::NAN; span.len()]);
        self.labeller.label(span.start, item, &mut labels, &mut distances)?;
        let at = span.start - pending.span.start..span.end - pending.span.start;
        let mut values = pending.values.lock().expect("no thread panics with the lock");
        values.0[at.clone()].copy_from_slice(&labels);
        values.1[at].copy_from_slice(&distances);
        drop(values);
        let last = pending.steps_left.fetch_sub(1, Ordering::AcqRel) == 1;
        // When a writer has failed, its error is the one to report.
        if self.failed.load(Ordering::Relaxed) || (last && files.send(pending.clone()).is_err()) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    fn write_all(&self, files: &Mutex<Receiver<Arc<Pending>>>) -> Result<()> {
        loop {
            let next = files.lock().expect("no thread panics with the lock").recv();
            let Ok(pending) = next else { return Ok(()) };
            self.write(&pending).inspect_err(|_| self.failed.store(true, Ordering::Relaxed))?;
            self.report(&pending.span);
        }
    }

    fn write(&self, pending: &Pending) -> Result<()> {
        let (labels, distances) = &*pending.values.lock().expect("no thread panics with the lock");
        let shape = || vec![pending.span.len()];
        let (labels, distances) = (bytemuck::cast_slice(labels), bytemuck::cast_slice(distances));
        let tensors = [
            TensorData { name: LABELS, dtype: Dtype::U32, shape: shape(), bytes: labels },
            TensorData { name: DISTANCES, dtype: Dtype::F32, shape: shape(), bytes: distances },
        ];
        let first_row = pending.span.start.to_string();
        let made_from = self.fingerprint(&pending.span)?;
        let metadata = BTreeMap::from([
            (FIRST_ROW.into(), first_row),
            (MADE_FROM.into(), made_from),
            (ROUNDING.into(), self.rounding().into()),
        ]);
        write_one_of_many(&pending.path, &tensors, &metadata).map(drop)
    }

    /// Report that the file of these rows is complete. Reports come in the order of the rows, not in that of the
    /// writes.
    fn report(&self, span: &Range<usize>) {
        let mut done = self.done.lock().expect("no thread panics with the lock");
        done.later.insert(span.start, span.end);
        while let Some(stop) = {
            let rows = done.rows;
            done.later.remove(&rows)
        } {
            done.rows = stop;
            let all = self.rows();
            self.labeller.supervisor.report(Progress::Rows { done: stop - all.start, total: all.len() });
        }
    }

    fn fingerprint(&self, span: &Range<usize>) -> Result<String> {
        self.labeller.supervisor.check()?;
        fingerprint(self.labeller.rows.source, self.model.centroids, self.model.unit_normalize, span)
    }

    /// Kernels round differently, and so give different labels: those of one directory come from like kernels.
    fn rounding(&self) -> &'static str {
        self.labeller.rows.kernel(self.model.kernel).rounding()
    }
}

fn is_done(path: &Path, made_from: &str, rounding: &str) -> bool {
    TensorFile::open_sound(path, &|| Ok(())).is_ok_and(|file| {
        file.made_from() == made_from && file.header().metadata.get(ROUNDING).map(String::as_str) == Some(rounding)
    })
}

/// Remove the files of an earlier, longer source.
fn remove_surplus(directory: &Path, n_shards: usize) -> Result<()> {
    for index in shard_indices(directory)? {
        if index >= n_shards {
            let path = directory.join(shard_name(index));
            fs::remove_file(&path).map_err(Error::io(&path, "delete"))?;
        }
    }
    Ok(())
}
