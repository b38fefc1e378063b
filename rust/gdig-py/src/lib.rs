//! The Python module `gdig._native`: converts, releases the GIL, calls gdig-core, converts back.

mod array;
mod bids;
mod errors;
mod facility;
mod g2is;
mod gist;
mod held;
mod kmeans;
mod limit;
mod neighbours;
mod peers;
mod relevance;
mod resample;
mod round_robin;
mod rows;
mod self_filter;
mod store;
mod supervised;
mod sweep;
mod tagcos;
mod words;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::bids::bids;
    #[pymodule_export]
    use super::errors::{GdigError, StoreError};
    #[pymodule_export]
    use super::facility::facility;
    #[pymodule_export]
    use super::g2is::g2is;
    #[pymodule_export]
    use super::gist::gist_scores;
    #[pymodule_export]
    use super::held::HeldRows;
    #[pymodule_export]
    use super::kmeans::{kernels, kmeans_fit, kmeans_label_damage, kmeans_predict, kmeans_write_labels};
    #[pymodule_export]
    use super::neighbours::{neighbours, neighbours_by_clusters};
    #[pymodule_export]
    use super::resample::{label_counts, resample, resample_files, row_hash, sample_rows};
    #[pymodule_export]
    use super::round_robin::round_robin;
    #[pymodule_export]
    use super::self_filter::self_filter;
    #[pymodule_export]
    use super::store::{content_checksum, damage_of, read_tensors, verify_file, write_tensors, Store};
    #[pymodule_export]
    use super::sweep::{best_rows, draw_rows, row_columns, seed_means, survey};
    #[pymodule_export]
    use super::tagcos::tagcos;
    #[pymodule_export]
    use super::words::SharedWords;
}
