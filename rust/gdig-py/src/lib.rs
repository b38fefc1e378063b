//! The Python module `gdig._native`: converts, releases the GIL, calls gdig-core, converts back.

mod array;
mod bids;
mod errors;
mod kmeans;
mod neighbours;
mod pursuit;
mod resample;
mod run;
mod store;
mod verdicts;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::bids::bids;
    #[pymodule_export]
    use super::errors::{GdigError, StoreError};
    #[pymodule_export]
    use super::kmeans::{kernels, kmeans_fit, kmeans_predict, kmeans_predict_to};
    #[pymodule_export]
    use super::neighbours::{gradient_walk, neighbours, neighbours_by_clusters, penalised_rows};
    #[pymodule_export]
    use super::pursuit::pursue;
    #[pymodule_export]
    use super::resample::{label_counts, resample, resample_files, row_hash, sample_rows};
    #[pymodule_export]
    use super::store::{read_tensors, verify_file, write_tensors, Store};
    #[pymodule_export]
    use super::verdicts::{best_rows, draw_rows, row_columns, survey};
}
