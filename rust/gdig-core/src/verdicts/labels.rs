//! The files that `kmeans::predict_to` has written, read back one at a time.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use super::{spans, SPAN};
use crate::hash::{derive, row_hash};
use crate::interrupt::Supervisor;
use crate::parallel::{in_order, thread_pool};
use crate::resample::{Population, Row, MAX_LABEL, NOT_ELIGIBLE};
use crate::store::{shard_indices, shard_name, TensorFile};
use crate::{Dtype, Error, Result};

/// A directory of label files, without gaps.
pub struct LabelFiles {
    directory: PathBuf,
    rows_per_file: usize,
    len: usize,
    /// By file: looked through, and sound. Once is enough, though a file is opened for every span of rows.
    sound: Vec<AtomicBool>,
}

/// One of them.
pub struct LabelFile {
    file: TensorFile,
    pub span: Range<usize>,
}

impl LabelFiles {
    pub fn open(directory: &Path) -> Result<LabelFiles> {
        let present = shard_indices(directory)?;
        let Some(&last) = present.last() else { return Err(Error::store(directory, "no labels there")) };
        if let Some(gap) = (0..=last).find(|index| present.binary_search(index).is_err()) {
            return Err(Error::store(&directory.join(shard_name(gap)), "missing: later labels are there"));
        }
        let rows_of = |index| Ok(rows_of(&open(&directory.join(shard_name(index)))?)?.len());
        let rows_per_file = rows_of(0)?;
        if rows_per_file == 0 {
            return Err(Error::store(&directory.join(shard_name(0)), "holds no labels"));
        }
        let len = last * rows_per_file + rows_of(last)?;
        let sound = (0..=last).map(|_| AtomicBool::new(false)).collect();
        Ok(LabelFiles { directory: directory.into(), rows_per_file, len, sound })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file with a row's label.
    pub fn file_of(&self, row: usize) -> Result<LabelFile> {
        let first = row / self.rows_per_file * self.rows_per_file;
        let path = self.directory.join(shard_name(row / self.rows_per_file));
        let file = open(&path)?;
        let rows = rows_of(&file)?;
        if rows != (first..self.len.min(first + self.rows_per_file)) {
            let expected = self.len.min(first + self.rows_per_file);
            return Err(Error::store(&path, format!("expected labels of rows {first}..{expected}, got {rows:?}")));
        }
        let sound = &self.sound[row / self.rows_per_file];
        if sound.load(Ordering::Relaxed) {
            return Ok(LabelFile { file, span: rows });
        }
        file.verify(&|| Ok(()))?;
        // Clusters are counted in arrays by label.
        let far = |&label: &u32| label != NOT_ELIGIBLE && label as usize >= MAX_LABEL;
        let labels = file.typed::<u32>("labels", Dtype::U32)?;
        if let Some(i) = labels.iter().position(far) {
            let what = format!("row {}: label {}, expected 0 to {}", first + i, labels[i], MAX_LABEL - 1);
            return Err(Error::store(&path, what));
        }
        sound.store(true, Ordering::Relaxed);
        Ok(LabelFile { file, span: rows })
    }

    /// Rows of each label, as long as the largest label asks for. Takes a pass over the files.
    pub fn counts(&self, supervisor: &Supervisor) -> Result<Vec<u64>> {
        let total: Mutex<Vec<u64>> = Mutex::new(Vec::new());
        thread_pool(0)?.install(|| {
            in_order(spans(self.len), |span| {
                supervisor.check()?;
                let mut counts: Vec<u64> = Vec::new();
                LabelRows { files: self, seed: 0 }.each(span, &mut |row| {
                    if row.label >= counts.len() {
                        counts.resize(row.label + 1, 0);
                    }
                    counts[row.label] += 1;
                })?;
                let mut total = total.lock().expect("no thread panics with the lock");
                let longest = total.len().max(counts.len());
                total.resize(longest, 0);
                total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
                Ok(())
            })
        })?;
        Ok(total.into_inner().expect("no thread panics with the lock"))
    }
}

impl LabelFile {
    pub fn label(&self, row: usize) -> u32 {
        self.labels()[row - self.span.start]
    }

    pub fn distance(&self, row: usize) -> Result<f32> {
        let distances = self.file.typed::<f32>("distances", Dtype::F32)?;
        let missing = || Error::store(self.file.path(), "distances: expected as many as labels");
        distances.get(row - self.span.start).copied().ok_or_else(missing)
    }

    fn labels(&self) -> &[u32] {
        self.file.typed("labels", Dtype::U32).expect("checked when the file was opened")
    }
}

fn open(path: &Path) -> Result<TensorFile> {
    let file = TensorFile::open(path)?;
    file.typed::<u32>("labels", Dtype::U32)?;
    Ok(file)
}

/// The rows that a file says its labels are of.
fn rows_of(file: &TensorFile) -> Result<Range<usize>> {
    let first = file.header().metadata.get("first_row").and_then(|first| first.parse::<usize>().ok());
    let first = first.ok_or_else(|| Error::store(file.path(), "first_row in its metadata: expected a row number"))?;
    Ok(first..first + file.typed::<u32>("labels", Dtype::U32)?.len())
}

/// All rows that have a label, to draw from by hash.
pub struct LabelRows<'a> {
    pub files: &'a LabelFiles,
    pub seed: u64,
}

impl Population for LabelRows<'_> {
    fn len(&self) -> usize {
        self.files.len
    }

    fn each(&self, span: Range<usize>, visit: &mut impl FnMut(Row)) -> Result<()> {
        debug_assert!(span.len() <= SPAN);
        let row_seed = derive(self.seed, "rows");
        let mut start = span.start;
        while start < span.end {
            let file = self.files.file_of(start)?;
            let stop = span.end.min(file.span.end);
            let labels = &file.labels()[start - file.span.start..stop - file.span.start];
            for (row, &label) in (start as u64..).zip(labels) {
                if label != NOT_ELIGIBLE {
                    visit(Row { row, label: label as usize, key: row_hash(row_seed, row), cost: 0 });
                }
            }
            start = stop;
        }
        Ok(())
    }
}
