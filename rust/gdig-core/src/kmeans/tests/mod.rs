mod bad_rows;
mod label_files;
mod lloyd;
#[cfg(not(miri))]
mod readahead;
mod resume_file;
mod tally;

use bytemuck::cast_slice;

use super::*;
use crate::convert::Rows;
use crate::interrupt::Supervisor;
use crate::rows::Source;
use crate::simd::Kernel;
use crate::store::{shard_name, write, Store, TensorData, TensorFile, MADE_FROM};
use crate::testing::{array, data, Stored, DTYPES};
use crate::{Dtype, Error, Result};

fn options(k: usize) -> Options {
    Options {
        n_clusters: k,
        init: Init::PlusPlus,
        max_iter: 10,
        tol: 0.0,
        random_state: 3,
        train_rows: None,
        unit_normalize: false,
        kernel: None,
        n_threads: 2,
        weights: None,
        resume_file: None,
    }
}

fn run(x: &[f32], dim: usize, options: &Options) -> Result<Fitted> {
    fit(&array(x, dim), options, &Supervisor::none())
}
