use super::*;
use crate::store::Appender;

#[test]
fn predictions_on_disk_are_kept_when_sound_and_made_again_when_not() {
    let (dim, x) = (4, data(1000, 4, 6, 6));
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(&directory.path().join("store"), dim, Dtype::I8, 300, false).unwrap();
    let mut appender = Appender::new(&store).unwrap();
    appender.append(Rows::new(Dtype::F32, dim, cast_slice(&x), &[]).unwrap()).unwrap();
    appender.flush().unwrap();
    let source = Source::store(&store).unwrap();
    let out = directory.path().join("labels");
    let model = Model { centroids: &x[..8 * dim], unit_normalize: false, kernel: None, n_threads: 2 };
    let go = |centroids: &[f32]| {
        let model = Model { centroids, ..model };
        let paths = write_labels(&source, &model, &out, 0, None, &Supervisor::none()).unwrap();
        let stamp = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
        (paths.iter().map(stamp).collect::<Vec<_>>(), paths)
    };
    let (first, paths) = go(&x[..8 * dim]);
    assert_eq!(paths.len(), 4);
    assert_eq!(go(&x[..8 * dim]).0, first, "nothing was written again");
    let sound = std::fs::read(&paths[1]).unwrap();
    std::fs::write(&paths[1], &sound[..sound.len() - 1]).unwrap();
    std::fs::remove_file(&paths[2]).unwrap();
    let (second, _) = go(&x[..8 * dim]);
    assert_eq!((second[0], second[3]), (first[0], first[3]));
    assert_eq!(std::fs::read(&paths[1]).unwrap(), sound);
    let (third, _) = go(&x[dim..9 * dim]);
    assert!(third.iter().zip(&second).all(|(a, b)| a != b), "other centroids, other labels");
    assert!(write_labels(
        &source,
        &Model { centroids: &x[..4], unit_normalize: false, kernel: None, n_threads: 1 },
        store.path(),
        0,
        None,
        &Supervisor::none()
    )
    .is_err());
    // In parts, to another directory: what another process is writing there is left alone.
    let (shared, model) = (directory.path().join("shared"), Model { centroids: &x[dim..9 * dim], ..model });
    let (foreign, own) =
        (shared.join(".00000000.safetensors.1-0-0.tmp"), shared.join(".00000001.safetensors.1-0-0.tmp"));
    std::fs::create_dir(&shared).unwrap();
    for file in [&foreign, &own, &shared.join("00000009.safetensors")] {
        std::fs::write(file, "").unwrap();
    }
    let label_shards = |shards| write_labels(&source, &model, &shared, 0, Some(shards), &Supervisor::none());
    assert_eq!(label_shards(1..3).unwrap().len(), 2);
    assert!(foreign.exists() && !own.exists() && shared.join("00000009.safetensors").exists());
    assert_eq!(
        (label_shards(0..1).unwrap().len(), label_shards(3..4).unwrap().len(), label_shards(2..2).unwrap().len()),
        (1, 1, 0)
    );
    assert!(!shared.join("00000009.safetensors").exists(), "who has the last shard removes those of an earlier source");
    for (i, path) in paths.iter().enumerate() {
        assert_eq!(std::fs::read(path).unwrap(), std::fs::read(shared.join(shard_name(i))).unwrap());
    }
    assert!(label_shards(3..5).is_err());
}

#[test]
fn forged_labels_and_rows_are_refused_by_number() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(shard_name(0));
    let forge = |label: u32, first_row: &str| {
        let labels = [0, label];
        let tensors = [TensorData { name: "labels", dtype: Dtype::U32, shape: vec![2], bytes: cast_slice(&labels) }];
        write(&path, &tensors, &[("first_row".into(), first_row.into())].into()).unwrap();
        LabelFiles::open(directory.path())?.counts(&Supervisor::none())
    };
    assert_eq!(forge(1, "0").unwrap(), [1, 1]);
    let message = forge((1 << 28) - 1, "0").unwrap_err().to_string();
    assert!(message.contains("row 1: label: expected 0 to 1048575, got 268435455"), "{message}");
    let message = forge(1, "18446744073709551615").unwrap_err().to_string();
    assert!(message.contains("first_row: expected a row number, got 18446744073709551615"), "{message}");
}
