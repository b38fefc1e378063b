//! Memory for rows that are read from the disk, used again and again.

use std::sync::{Arc, Mutex, PoisonError};

use crate::store::direct::Blocks;

/// Memory that is free.
#[derive(Default)]
pub struct Pool(Mutex<Vec<Blocks>>);

/// Memory of some rows, which goes back to the pool.
pub struct Buffer {
    blocks: Blocks,
    pool: Arc<Pool>,
}

impl Buffer {
    pub fn new(pool: &Arc<Pool>) -> Buffer {
        let blocks = pool.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Buffer { blocks, pool: pool.clone() }
    }

    pub fn blocks(&mut self) -> &mut Blocks {
        &mut self.blocks
    }

    pub fn bytes(&self) -> &[u8] {
        self.blocks.bytes()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let blocks = std::mem::take(&mut self.blocks);
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(blocks);
    }
}
