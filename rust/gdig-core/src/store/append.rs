//! Rows appended one batch after another: converted straight into the bytes of the shard to come.

use crate::convert::{encode, Rows};
use crate::{Dtype, Error, Result};

use super::{Store, SCALE, SKETCH};

/// Collects rows and writes a shard whenever it is full.
pub struct Appender {
    store: Store,
    index: usize,
    bytes: Vec<u8>,
    scales: Vec<f32>,
    /// Rows in the buffer that are on disk already (a shorter last shard, taken up again).
    saved: usize,
}

impl Appender {
    /// Go on after the last row. A last shard that is not full is taken into the buffer and written again when it
    /// is; one that holds further tensors cannot be continued by rows alone and is refused.
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
            let file = store.shard(index)?.file;
            // What is written again gets a new checksum: it must not make damaged rows look sound.
            file.verify(&|| Ok(()))?;
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

    /// Take rows in; write a shard each time one is full. A row that cannot be stored is an error, and none of the
    /// batch after the last full shard is kept.
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

    /// Write what is buffered as the last, shorter shard. Further rows continue it.
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
