//! What is subtracted from rows before they are added up.

use crate::rows::{Block, Reader, RowSet};
use crate::simd::middle::middle;

/// The rows that are looked at, evenly spaced.
const LOOKED_AT: usize = 1024;

/// A middle of the training rows, [dim]; zeros where they lie around the origin. A fit has one offset from its first pass
/// to its last, so the mean of the same rows has the same bits in each. It depends on the rows alone.
///
/// A row that cannot be read is passed over: the pass names the first of them.
pub fn offset(rows: RowSet) -> Vec<f32> {
    let dim = rows.source.dim();
    let (mut reader, mut block) = (Reader::new(rows), Block::default());
    let (mut points, mut x) = (Vec::new(), vec![0f32; dim]);
    let looked_at = LOOKED_AT.min(rows.len());
    for i in 0..looked_at {
        let position = (i as u128 * rows.len() as u128 / looked_at as u128) as usize;
        let Ok(view) = reader.view(position, position + 1, &mut block) else { continue };
        if !view.rows.is_empty() {
            view.rows.decode(&mut x);
            if x.iter().all(|x| x.is_finite()) {
                points.extend_from_slice(&x);
            }
        }
    }
    middle(&points, dim)
}
