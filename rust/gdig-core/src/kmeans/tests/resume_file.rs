use super::*;
use crate::interrupt::{supervise, Progress};

#[test]
fn a_fit_goes_on_from_its_resume_file_to_the_same_bits() {
    let (x, directory) = (data(3000, 6, 12, 8), tempfile::tempdir().unwrap());
    let resume_file = Some(directory.path().join("fit.safetensors"));
    for (tol, train_rows) in [(0.0, None), (1e-3, None), (0.0, Some(2000))] {
        let opts = |max_iter, resume_file| Options { max_iter, tol, train_rows, resume_file, ..options(12) };
        let whole = run(&x, 6, &opts(20, None)).unwrap();
        for stopped_after in 1..whole.n_iter {
            run(&x, 6, &opts(stopped_after, resume_file.clone())).unwrap();
            let mut iterations = Vec::new();
            let mut watch = |progress| {
                if let Some(Progress::Iteration { iteration, .. }) = progress {
                    iterations.push(iteration);
                }
                true
            };
            let resumed = opts(20, resume_file.clone());
            let again = supervise(&mut watch, |supervisor| fit(&array(&x, 6), &resumed, supervisor)).unwrap();
            assert_eq!(again, whole);
            assert_eq!(iterations, (stopped_after + 1..=whole.n_iter).collect::<Vec<_>>());
            // It ended: now there is nothing left to iterate.
            assert_eq!(run(&x, 6, &resumed).unwrap(), whole);
        }
    }
    // Another fit's, a longer fit's and a damaged file are not gone on from.
    let path = resume_file.clone().unwrap();
    let short = Options { max_iter: 2, ..options(12) };
    let fresh = run(&x, 6, &short).unwrap();
    run(&x, 6, &Options { resume_file: resume_file.clone(), ..options(12) }).unwrap();
    assert_eq!(run(&x, 6, &Options { resume_file: resume_file.clone(), ..short }).unwrap(), fresh);
    let other = Options { random_state: 4, max_iter: 2, ..options(12) };
    let fresh = run(&x, 6, &other).unwrap();
    let other = Options { resume_file, ..other };
    assert_eq!(run(&x, 6, &other).unwrap(), fresh);
    let sound = std::fs::read(&path).unwrap();
    std::fs::write(&path, &sound[..sound.len() - 1]).unwrap();
    assert_eq!(run(&x, 6, &other).unwrap(), fresh);
}

/// A resumed fit that asks for no kernel keeps the rounding of its file, so a fit that has moved to another chip comes
/// to the same bits. One that asks for another rounding starts anew.
#[test]
fn a_fit_goes_on_with_the_rounding_of_its_file() {
    let (x, directory) = (data(3000, 6, 12, 8), tempfile::tempdir().unwrap());
    let stored = Stored::new(&x, 6, Dtype::F16);
    let source = Source::Array(stored.rows());
    let path = directory.path().join("fit.safetensors");
    let rounding = || TensorFile::open(&path).unwrap().user_metadata()["rounding"].clone();
    let whole_fit = |kernel| fit(&source, &Options { kernel, ..options(12) }, &Supervisor::none()).unwrap();
    let usual = whole_fit(None);
    for (kernel, name) in Kernel::available().filter(|(kernel, _)| kernel.takes(Dtype::F16)) {
        let with = |kernel, max_iter| Options { kernel, max_iter, resume_file: Some(path.clone()), ..options(12) };
        let resumed = |options: &Options| {
            let mut iterations = 0;
            let mut watch = |progress| {
                iterations += usize::from(matches!(progress, Some(Progress::Iteration { .. })));
                true
            };
            let fitted = supervise(&mut watch, |supervisor| fit(&source, options, supervisor)).unwrap();
            (fitted, iterations)
        };
        let whole = whole_fit(Some(kernel));
        resumed(&with(Some(kernel), 2));
        assert_eq!(rounding(), kernel.rounding(), "{name}");
        let (again, iterations) = resumed(&with(None, 10));
        assert_eq!((&again, iterations), (&whole, whole.n_iter - 2), "{name}");
        assert_eq!(rounding(), kernel.rounding(), "{name}");
        // The file of another fit decides nothing.
        let other = Options { random_state: 4, ..with(None, 10) };
        let fresh = Options { resume_file: None, ..other.clone() };
        assert_eq!(resumed(&other).0, fit(&source, &fresh, &Supervisor::none()).unwrap(), "{name}");
        // A kernel that is asked for by name is taken.
        resumed(&with(Some(kernel), 2));
        assert_eq!(resumed(&with(Some(Kernel::Scalar), 10)).0, whole_fit(Some(Kernel::Scalar)), "{name}");
    }
    // A rounding that this machine does not have.
    fit(&source, &Options { max_iter: 2, resume_file: Some(path.clone()), ..options(12) }, &Supervisor::none())
        .unwrap();
    let file = TensorFile::open(&path).unwrap();
    let mut metadata = file.user_metadata();
    metadata.insert("rounding".into(), "bfloat99".into());
    let (centroids, counts) = (file.bytes("centroids").unwrap().to_vec(), file.bytes("counts").unwrap().to_vec());
    let tensors = [
        TensorData { name: "centroids", dtype: Dtype::F32, shape: vec![12, 6], bytes: &centroids },
        TensorData { name: "counts", dtype: Dtype::U64, shape: vec![12], bytes: &counts },
    ];
    write(&path, &tensors, &metadata).unwrap();
    let resumed = Options { resume_file: Some(path), ..options(12) };
    assert_eq!(fit(&source, &resumed, &Supervisor::none()).unwrap(), usual);
}

#[test]
fn a_forged_resume_file_is_not_gone_on_from() {
    let (x, directory) = (data(300, 2, 3, 8), tempfile::tempdir().unwrap());
    let path = directory.path().join("fit.safetensors");
    let whole = run(&x, 2, &options(3)).unwrap();
    let resumed = Options { resume_file: Some(path.clone()), ..options(3) };
    run(&x, 2, &Options { max_iter: 1, resume_file: Some(path.clone()), ..options(3) }).unwrap();
    let metadata = TensorFile::open(&path).unwrap().user_metadata();
    let forge = |centroid: f32, clusters: usize, inertia: f64| {
        let (centroids, counts) = (vec![centroid; 6], vec![100u64; clusters]);
        let bytes = cast_slice(&centroids);
        let tensors = [
            TensorData { name: "centroids", dtype: Dtype::F32, shape: vec![3, 2], bytes },
            TensorData { name: "counts", dtype: Dtype::U64, shape: vec![clusters], bytes: cast_slice(&counts) },
        ];
        let mut metadata = metadata.clone();
        assert!(metadata.contains_key(MADE_FROM));
        metadata.insert("inertia_bits".into(), format!("{:016x}", inertia.to_bits()));
        write(&path, &tensors, &metadata).unwrap();
        run(&x, 2, &resumed).unwrap()
    };
    for (centroid, clusters, inertia) in
        [(f32::NAN, 3, 1.0), (f32::INFINITY, 3, 1.0), (1e30, 3, 1.0), (0.5, 0, 1.0), (0.5, 4, 1.0), (0.5, 3, f64::NAN)]
    {
        assert_eq!(forge(centroid, clusters, inertia), whole, "{centroid} {clusters} {inertia}");
    }
}
