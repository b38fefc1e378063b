use super::*;

#[test]
fn the_first_bad_row_is_named_whatever_reads_it() {
    let (n, dim, first) = (9000, 5, 8211);
    let x = data(n, dim, 5, 2);
    let start = x[..3 * dim].to_vec();
    for dtype in DTYPES {
        // Of int8 the scale; what is finite and still too large fits in three of the types only.
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
            if dtype == Dtype::F16 && value.is_finite() {
                continue;
            }
            let mut stored = Stored::new(&x, dim, dtype);
            [(first, 3), (first + 1, 0), (n - 1, dim - 1)].iter().for_each(|&(i, j)| stored.spoil(i, j, value));
            let source = Source::Array(stored.rows());
            let (kernels, mut modes) = (Kernel::available().map(|(kernel, _)| kernel), Vec::new());
            kernels.for_each(|kernel| modes.extend([(kernel, false), (kernel, true)]));
            for (kernel, unit_normalize) in modes {
                if !kernel.takes(if unit_normalize { Dtype::F32 } else { dtype }) {
                    continue;
                }
                let named = |error: Error| {
                    let message = error.to_string();
                    let what = format!("{kernel:?} {} {value} {unit_normalize}: {message}", dtype.name());
                    assert!(message.starts_with(&format!("row {first}")), "{what}");
                    let column = if dtype == Dtype::I8 { 0 } else { 3 };
                    assert!(value.is_finite() || message.contains(&format!("column {column}: ")), "{what}");
                };
                let kernel = Some(kernel);
                for train_rows in [None, Some(n - 1)] {
                    let init = Init::Centroids(start.clone());
                    let opts = Options { train_rows, kernel, unit_normalize, init, ..options(3) };
                    named(fit(&source, &opts, &Supervisor::none()).unwrap_err());
                }
                let model = Model { centroids: &start, unit_normalize, kernel, n_threads: 2 };
                named(predict(&source, &model, &Supervisor::none()).unwrap_err());
            }
        }
    }
}

#[test]
fn a_sample_names_its_bad_row() {
    for bad in [f32::NAN, f32::INFINITY, 1e30] {
        let mut x = data(20_000, 2, 5, 2);
        (x[2 * 12_345 + 1], x[2 * 19_000]) = (bad, bad);
        for train_rows in [None, Some(19_999)] {
            let error = run(&x, 2, &Options { train_rows, ..options(3) }).unwrap_err().to_string();
            assert!(error.starts_with("row 12345"), "{error}");
        }
    }
}

#[test]
fn centroids_whose_distances_overflow_are_refused() {
    let x = data(50, 2, 5, 2);
    for bad in [f32::NAN, f32::INFINITY, 1e30, 7e18] {
        let given = vec![0.0, 1.0, bad, 0.0];
        let opts = Options { init: Init::Centroids(given.clone()), ..options(2) };
        let error = run(&x, 2, &opts).unwrap_err().to_string();
        assert!(error.contains("init: expected") && error.contains("centroid 1"), "{error}");
        let model = Model { centroids: &given, unit_normalize: false, kernel: None, n_threads: 1 };
        let error = predict(&array(&x, 2), &model, &Supervisor::none()).unwrap_err().to_string();
        assert!(error.contains("centroid 1"), "{error}");
    }
}
