//! A fit from the choice of the training rows to the centroids.

use super::init;
use super::lloyd;
use super::offset::offset;
use super::options::{check_centroids, Fitted, Init, Options};
use super::peers::Peers;
use super::resume_file::ResumeFile;
use super::sample::sample;
use super::waves::Memory;
use crate::convert::Rows;
use crate::hash::derive;
use crate::interrupt::Supervisor;
use crate::parallel::thread_pool;
use crate::rows::gather::gather_stored;
use crate::rows::{RowSet, Source};
use crate::{Error, Result};

/// Training rows that take no more bytes are copied to memory as they are stored. Otherwise each iteration reads them
/// from the source.
const GATHER_BYTES: usize = 256 << 20;

pub fn fit(source: &Source, options: &Options, supervisor: &Supervisor) -> Result<Fitted> {
    fit_with(source, options, None, supervisor)
}

/// `fit` together with other processes, which call `help` with the same source and options.
pub fn fit_with(
    source: &Source,
    options: &Options,
    peers: Option<&dyn Peers>,
    supervisor: &Supervisor,
) -> Result<Fitted> {
    if peers.is_some() && options.weights.is_some() {
        return Err(Error::input("sample_weight: expected one process; several share a fit without weights"));
    }
    on_training_rows(source, options, supervisor, |all, rows| {
        // The resume file does not depend on the sample, which the options determine.
        let path = options.resume_file.as_deref();
        // The other processes know nothing of the file.
        let may_follow = peers.is_none();
        let resume_file = path.map(|path| ResumeFile::new(path, all, options, may_follow, supervisor)).transpose()?;
        match &resume_file {
            Some(resume_file) if resume_file.kernel() != all.kernel(options.kernel) => {
                let options = Options { kernel: Some(resume_file.kernel()), ..options.clone() };
                train(rows, &options, Some(resume_file), peers, supervisor)
            }
            _ => train(rows, options, resume_file.as_ref(), peers, supervisor),
        }
    })
}

/// Add up the chunks of this process in each pass of the fit of rank 0, until that fit has ended.
pub fn help(source: &Source, options: &Options, peers: &dyn Peers, supervisor: &Supervisor) -> Result<()> {
    on_training_rows(source, options, supervisor, |_, rows| {
        let (offset, mut memory) = (offset(rows), Memory::default());
        while let Some(centroids) = peers.take()? {
            lloyd::help(rows, (&centroids, &offset), options, &mut memory, peers, supervisor)?;
        }
        Ok(())
    })
}

/// Do `work` in a pool of threads. Its arguments are all rows, and the rows to train on.
fn on_training_rows<T: Send>(
    source: &Source,
    options: &Options,
    supervisor: &Supervisor,
    work: impl FnOnce(RowSet, RowSet) -> Result<T> + Send,
) -> Result<T> {
    let k = options.n_clusters;
    let counted = counted(source, options.weights.as_deref(), supervisor)?;
    let n_valid = match &counted {
        Counted::All(n) => *n,
        Counted::Some(list) => list.len(),
    };
    if k == 0 || k > n_valid || k >= u32::MAX as usize {
        let skipped = source.len() - n_valid;
        let what = format!(
            "n_clusters: expected 1 to the number of rows, {n_valid} (and {skipped} invalid ones or of weight 0)"
        );
        return Err(Error::input(format!("{what}, got {k}")));
    }
    if let Some(n) = options.train_rows.filter(|&n| n < k) {
        return Err(Error::input(format!("train_rows: expected at least n_clusters, {k}, got {n}")));
    }
    let pool = thread_pool(options.n_threads)?;
    pool.install(|| {
        let list = if let Counted::Some(list) = &counted { Some(&list[..]) } else { None };
        let all = RowSet { source, list, unit_normalize: options.unit_normalize };
        let n_train = options.train_rows.unwrap_or(n_valid).min(n_valid);
        if n_train == n_valid {
            return work(all, all);
        }
        let list = sample(all, n_train, derive(options.random_state, "k-means training rows"), supervisor)?;
        let rows = RowSet { list: Some(&list), ..all };
        // Weights belong to the rows of the source.
        if options.weights.is_some() || n_train * source.dim() * source.dtype().size() > GATHER_BYTES {
            return work(all, rows);
        }
        let (stored, scales) = gather_stored(rows, supervisor)?;
        let size = source.dim() * source.dtype().size();
        let bytes = &bytemuck::cast_slice(&stored)[..n_train * size];
        let array = Rows::new(source.dtype(), source.dim(), bytes, &scales)?;
        work(all, RowSet { source: &Source::Array(array), list: None, ..rows })
    })
}

/// The rows that a fit may train on.
enum Counted {
    /// So many, which are all valid rows of the source.
    All(usize),
    /// The valid rows with a weight, ascending.
    Some(Vec<u64>),
}

fn counted(source: &Source, weights: Option<&[f32]>, supervisor: &Supervisor) -> Result<Counted> {
    let Some(weights) = weights else {
        let mut n_valid = 0;
        source.each_valid(supervisor, |_| n_valid += 1)?;
        return Ok(Counted::All(n_valid));
    };
    if weights.len() != source.len() || !weights.iter().all(|w| (0.0..=1.0).contains(w)) {
        let what = format!("sample_weight: expected a number from 0 to 1 for each of {} rows", source.len());
        return Err(Error::input(format!("{what}, got {} numbers", weights.len())));
    }
    let mut list = Vec::new();
    source.each_valid(supervisor, |row| list.extend((weights[row] > 0.0).then_some(row as u64)))?;
    Ok(Counted::Some(list))
}

fn train(
    rows: RowSet,
    options: &Options,
    resume_file: Option<&ResumeFile>,
    peers: Option<&dyn Peers>,
    supervisor: &Supervisor,
) -> Result<Fitted> {
    let (k, dim) = (options.n_clusters, rows.source.dim());
    if let Init::Centroids(given) = &options.init {
        if given.len() != k * dim {
            let got = given.len();
            return Err(Error::input(format!("init: expected finite centroids [{k}, {dim}], got {got} numbers")));
        }
        check_centroids(given, dim).map_err(|what| Error::input(format!("init: {what}")))?;
    }
    let state = match (resume_file.and_then(|resume_file| resume_file.read(options, dim)), &options.init) {
        (Some(state), _) => state,
        (None, Init::PlusPlus) => lloyd::start(init::plus_plus(rows, k, options, supervisor)?, dim, options),
        (None, Init::Centroids(given)) => lloyd::start(given.clone(), dim, options),
    };
    lloyd::run(rows, state, &offset(rows), options, resume_file, peers, supervisor)
}
