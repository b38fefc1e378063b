//! Rows appended batch by batch. They are converted straight into the bytes of the next shard.

use crate::convert::{encode, Rows};
use crate::{Dtype, Error, Result};

use super::{Store, SCALE, SKETCH};

/// Collects rows, and writes each shard when it is full.
pub struct Appender {
    store: Store,
    index: usize,
    bytes: Vec<u8>,
    scales: Vec<f32>,
    /// Rows in the buffer that are already on disk, in a last shard that is not full.
    saved: usize,
}

impl Appender {
    /// Go on after the last row. A last shard that is not full moves to the buffer, and is written again when it is
    /// full. A last shard with further tensors is refused, because rows alone cannot continue it.
    pub fn new(store: &Store) -> Result<Appender> {
        let len = store.check_complete()?;
        let index = len / store.rows_per_shard();
        let mut appender = Appender {
            store: store.clone(),
            index,
            bytes: Vec::new(),
            scales: Vec::new(),
            saved: len % store.rows_per_shard(),
        };
        if appender.saved > 0 {
            // `shard` compares the checksum: these rows get a new one, which must not make damaged rows look sound.
            let file = store.shard(index)?.file;
            if let Some(name) = file.header().tensors.keys().find(|name| *name != SKETCH && *name != SCALE) {
                let what = format!("not full, and it holds {name:?}: rows alone cannot be appended to it");
                return Err(Error::store(file.path(), what));
            }
            appender.bytes.extend_from_slice(file.bytes(SKETCH)?);
            if store.dtype() == Dtype::I8 {
                appender.scales.extend_from_slice(file.typed(SCALE, Dtype::F32)?);
            }
        }
        Ok(appender)
    }

    /// Rows in the buffer that are not on disk yet.
    pub fn pending(&self) -> usize {
        self.buffered() - self.saved
    }

    fn buffered(&self) -> usize {
        self.bytes.len() / (self.store.dim() * self.store.dtype().size())
    }

    /// Append rows, and write each shard that becomes full. A row that the type cannot hold is an error. Then the rows
    /// of the batch after the last full shard are dropped.
    pub fn append(&mut self, rows: Rows) -> Result<()> {
        if rows.dim() != self.store.dim() {
            let what = format!("append: expected {} columns, got {}", self.store.dim(), rows.dim());
            return Err(Error::store(self.store.path(), what));
        }
        let mut start = 0;
        while start < rows.len() {
            let before = self.buffered();
            let stop = rows.len().min(start + self.store.rows_per_shard() - before);
            let first = self.index * self.store.rows_per_shard() + before;
            let encoded = encode(rows.slice(start, stop), self.store.dtype(), first, &mut self.bytes, &mut self.scales);
            if let Err(what) = encoded {
                self.truncate(before);
                return Err(Error::store(&self.store.shard_path(self.index), what));
            }
            if self.buffered() == self.store.rows_per_shard() {
                if let Err(error) = self.write() {
                    self.truncate(before);
                    return Err(error);
                }
                (self.index, self.saved) = (self.index + 1, 0);
                self.truncate(0);
            }
            start = stop;
        }
        Ok(())
    }

    /// Write the buffered rows as the last shard, which is not full. Further rows continue it.
    pub fn flush(&mut self) -> Result<()> {
        if self.pending() > 0 {
            self.write()?;
            self.saved = self.buffered();
        }
        Ok(())
    }

    fn write(&self) -> Result<()> {
        self.store.write_encoded(self.index, &self.bytes, &self.scales, &[])
    }

    fn truncate(&mut self, rows: usize) {
        self.bytes.truncate(rows * self.store.dim() * self.store.dtype().size());
        self.scales.truncate(rows);
    }
}
