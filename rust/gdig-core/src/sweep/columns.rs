//! The numbers of some rows, read from their files.

use super::shard::SweepShard;
use super::votes::Judge;
use crate::interrupt::Supervisor;
use crate::kmeans::{LabelFile, LabelFiles};
use crate::resample::NOT_ELIGIBLE;
use crate::store::Store;
use crate::{Error, Result};

/// One number for each of the rows asked for, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    pub votes: Vec<u32>,
    pub score: Vec<f32>,
    pub loss: Vec<f32>,
    pub tokens: Vec<i64>,
    /// Without labels, `label` is `NOT_ELIGIBLE` and `distance` is NaN.
    pub label: Vec<u32>,
    pub distance: Vec<f32>,
}

pub fn columns(
    store: &Store,
    labels: Option<&LabelFiles>,
    rows: &[i64],
    judge: Judge,
    supervisor: &Supervisor,
) -> Result<Columns> {
    let (n, m) = (store.check_complete()?, rows.len());
    let mut values = Columns {
        votes: vec![0; m],
        score: vec![0.0; m],
        loss: vec![0.0; m],
        tokens: vec![0; m],
        label: vec![NOT_ELIGIBLE; m],
        distance: vec![f32::NAN; m],
    };
    // In the order of the pool: each file is opened once.
    let mut order: Vec<usize> = (0..m).collect();
    order.sort_by_key(|&i| rows[i]);
    let (mut shard, mut file): (Option<SweepShard>, Option<LabelFile>) = (None, None);
    for i in order {
        let outside = || Error::input(format!("rows: expected 0 to {}, got {}", n.saturating_sub(1), rows[i]));
        let row = usize::try_from(rows[i]).ok().filter(|&row| row < n).ok_or_else(outside)?;
        if shard.as_ref().is_none_or(|shard| !shard.span().contains(&row)) {
            supervisor.check()?;
            shard = Some(SweepShard::open(store, row / store.rows_per_shard())?);
        }
        let shard = shard.as_ref().expect("opened just above").view();
        shard.check_judge(judge)?;
        let judged = shard.judged(row, judge)?;
        (values.votes[i], values.score[i], values.loss[i]) = (judged.votes, judged.score, shard.loss(row));
        values.tokens[i] = shard.tokens(row)? as i64;
        if let Some(labels) = labels {
            if file.as_ref().is_none_or(|file| !file.span.contains(&row)) {
                file = Some(labels.file_of(row, supervisor)?);
            }
            let file = file.as_ref().expect("opened just above");
            (values.label[i], values.distance[i]) = (file.label(row), file.distance(row)?);
        }
    }
    Ok(values)
}
