//! The reader of label files. It holds one file at a time.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::{DISTANCES, FIRST_ROW, LABELS};
use crate::hash::{derive, RowHash};
use crate::interrupt::Supervisor;
use crate::resample::{sizes, Population, Row, MAX_LABEL, NOT_ELIGIBLE};
use crate::store::{shard_indices, shard_name, TensorFile};
use crate::{Dtype, Error, Result};

/// A file may hold labels up to the number of rows, or up to this. So a forged label costs little memory, where one
/// counter a label is held.
const FEWEST_LABELS: usize = 1 << 20;

/// A directory of label files in which no file is missing.
pub struct LabelFiles {
    directory: PathBuf,
    rows_per_file: usize,
    len: usize,
    /// For each file, whether its labels have been checked.
    sound: Vec<Mutex<bool>>,
}

/// An open label file.
pub struct LabelFile {
    file: TensorFile,
    pub span: Range<usize>,
}

impl LabelFiles {
    pub fn open(directory: &Path) -> Result<LabelFiles> {
        let present = shard_indices(directory)?;
        let Some(&last) = present.last() else {
            return Err(Error::store(directory, "no labels there: expected the files of KMeans.write_labels"));
        };
        if let Some(gap) = (0..=last).find(|index| present.binary_search(index).is_err()) {
            return Err(Error::store(
                &directory.join(shard_name(gap)),
                "missing: expected every label file up to the last one",
            ));
        }
        let rows_of = |index| Ok(rows_of(&open(&directory.join(shard_name(index)))?)?.len());
        let rows_per_file = rows_of(0)?;
        if rows_per_file == 0 {
            return Err(Error::store(&directory.join(shard_name(0)), "expected at least one label, got none"));
        }
        let len = last * rows_per_file + rows_of(last)?;
        let sound = present.iter().map(|_| Mutex::new(false)).collect();
        Ok(LabelFiles { directory: directory.into(), rows_per_file, len, sound })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file with the label of a row.
    pub fn file_of(&self, row: usize, supervisor: &Supervisor) -> Result<LabelFile> {
        let index = row / self.rows_per_file;
        let first = index * self.rows_per_file;
        let path = self.directory.join(shard_name(index));
        let file = open(&path)?;
        let rows = rows_of(&file)?;
        if rows != (first..self.len.min(first + self.rows_per_file)) {
            let expected = self.len.min(first + self.rows_per_file);
            return Err(Error::store(&path, format!("expected labels of rows {first}..{expected}, got {rows:?}")));
        }
        let file = LabelFile { file, span: rows };
        // Another thread that needs the same file waits here.
        let mut sound = self.sound[index].lock().expect("no thread panics with the lock");
        if !*sound {
            file.check(self.len.max(FEWEST_LABELS), supervisor)?;
            *sound = true;
        }
        drop(sound);
        Ok(file)
    }

    /// The number of rows of each label, [largest label + 1]. Takes a pass over the files.
    pub fn counts(&self, supervisor: &Supervisor) -> Result<Vec<u64>> {
        let sizes = sizes(&LabelRows { files: self, random_seed: 0, supervisor }, supervisor)?;
        let mut counts = vec![0; sizes.labels.last().map_or(0, |&last| last + 1)];
        sizes.labels.iter().zip(sizes.counts).for_each(|(&label, count)| counts[label] = count);
        Ok(counts)
    }
}

impl LabelFile {
    fn check(&self, labels_to: usize, supervisor: &Supervisor) -> Result<()> {
        supervisor.check()?;
        let most = labels_to.min(MAX_LABEL);
        let far = |&label: &u32| label != NOT_ELIGIBLE && label as usize >= most;
        let labels = self.labels();
        if let Some(i) = labels.iter().position(far) {
            let what = format!("row {}: label: expected 0 to {}, got {}", self.span.start + i, most - 1, labels[i]);
            return Err(Error::store(self.file.path(), what));
        }
        Ok(())
    }

    pub fn label(&self, row: usize) -> u32 {
        self.labels()[row - self.span.start]
    }

    pub fn distance(&self, row: usize) -> Result<f32> {
        let distances = self.file.typed::<f32>(DISTANCES, Dtype::F32)?;
        let missing = || Error::store(self.file.path(), "distances: expected as many as labels");
        distances.get(row - self.span.start).copied().ok_or_else(missing)
    }

    fn labels(&self) -> &[u32] {
        self.file.typed(LABELS, Dtype::U32).expect("checked when the file was opened")
    }
}

fn open(path: &Path) -> Result<TensorFile> {
    let file = TensorFile::open_sound(path, &|| Ok(()))?;
    file.typed::<u32>(LABELS, Dtype::U32)?;
    Ok(file)
}

/// The rows of a file, by its metadata.
fn rows_of(file: &TensorFile) -> Result<Range<usize>> {
    let first = file.header().metadata.get(FIRST_ROW).and_then(|first| first.parse::<usize>().ok());
    let first =
        first.ok_or_else(|| Error::store(file.path(), "first_row in its metadata: expected a row number, got none"))?;
    let stop = first.checked_add(file.typed::<u32>(LABELS, Dtype::U32)?.len());
    let stop =
        stop.ok_or_else(|| Error::store(file.path(), format!("first_row: expected a row number, got {first}")))?;
    Ok(first..stop)
}

/// All rows that have a label, ordered by a hash.
pub struct LabelRows<'a> {
    pub files: &'a LabelFiles,
    pub random_seed: u64,
    pub supervisor: &'a Supervisor<'a>,
}

impl Population for LabelRows<'_> {
    fn len(&self) -> usize {
        self.files.len
    }

    fn each(&self, span: Range<usize>, visit: &mut impl FnMut(Row)) -> Result<()> {
        let hash = RowHash::new(derive(self.random_seed, "rows"));
        let mut start = span.start;
        while start < span.end {
            let file = self.files.file_of(start, self.supervisor)?;
            let stop = span.end.min(file.span.end);
            let labels = &file.labels()[start - file.span.start..stop - file.span.start];
            for (row, &label) in (start as u64..).zip(labels) {
                if label != NOT_ELIGIBLE {
                    visit(Row { row, label: label as usize, key: hash.of(row), cost: 0 });
                }
            }
            start = stop;
        }
        Ok(())
    }
}
