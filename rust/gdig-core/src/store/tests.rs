use std::collections::BTreeMap;
use std::fs;
use std::sync::LazyLock;

use bytemuck::cast_slice;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::header::{build, parse};
use super::*;
use crate::convert::Rows;
use crate::error::HeaderError;
use crate::interrupt::Supervisor;

fn rows(values: &[f32], dim: usize) -> Rows<'_> {
    Rows::new(Dtype::F32, dim, cast_slice(values), &[]).unwrap()
}

/// The bytes of a small sound file, written once: thousands of cases change a copy.
fn sound_file() -> Vec<u8> {
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(write_sound_file);
    BYTES.clone()
}

fn write_sound_file() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.safetensors");
    let (a, b) = ([1.5f32, -2.0, 0.25, 8.0, 3.0, 4.0], [7u8, 9, 11]);
    let tensors = [
        TensorData { name: "b", dtype: Dtype::U8, shape: vec![3], bytes: &b },
        TensorData { name: "a", dtype: Dtype::F32, shape: vec![3, 2], bytes: cast_slice(&a) },
    ];
    write(&path, &tensors, &BTreeMap::from([("note".into(), "x\"xxh3\":\"y".into())])).unwrap();
    fs::read(&path).unwrap()
}

/// Open and verify these bytes as a file.
fn check(bytes: &[u8]) -> Result<()> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    TensorFile::open(file.path())?.verify(&|| Ok(()))
}

#[test]
fn the_reference_reader_opens_what_we_write() {
    let bytes = sound_file();
    check(&bytes).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.tensor("a").unwrap().shape(), [3, 2]);
    assert_eq!(read.tensor("a").unwrap().data(), cast_slice::<f32, u8>(&[1.5, -2.0, 0.25, 8.0, 3.0, 4.0]));
    assert_eq!(read.tensor("b").unwrap().data(), [7, 9, 11]);
    assert_eq!(parse(&bytes).unwrap().data_start % 64, 0);
    assert_eq!(bytes, write_sound_file(), "the same tensors give the same bytes");
}

const WORDS: &[&str] = &[
    "\"dtype\":",
    "\"shape\":",
    "\"data_offsets\":",
    "[0,0]",
    "\"F16\"",
    "null",
    "-1",
    "1e3",
    "9223372036854775808",
    "0.5,",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 20 } else { 2000 }, rng_seed: RngSeed::Fixed(3), ..ProptestConfig::default() })]

    /// Any changed byte is caught: by the header's checks or by the checksum; and nothing panics.
    #[test]
    fn a_changed_byte_never_passes(position in any::<prop::sample::Index>(), xor in 1u8..) {
        let mut bytes = sound_file();
        let position = position.index(bytes.len());
        bytes[position] ^= xor;
        prop_assert!(check(&bytes).is_err());
    }

    /// Headers with some bytes replaced: no panic, and whatever we accept the reference reader accepts too.
    #[test]
    fn we_accept_no_header_that_the_reference_refuses(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()
    ) {
        let mut bytes = sound_file();
        let header = parse(&bytes).unwrap().data_start;
        for (position, byte) in edits {
            bytes[position.index(header)] = byte;
        }
        if cut.index(4) == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        if parse(&bytes).is_ok() {
            prop_assert!(safetensors::SafeTensors::read_metadata(&bytes).is_ok());
        }
    }

    /// Headers with pieces of themselves copied to other places, and words of the format put in, their length set
    /// right: what changes of single bytes do not reach, such as a key that is there twice.
    #[test]
    fn we_accept_no_rearranged_header_that_the_reference_refuses(
        copies in prop::collection::vec(prop::array::uniform4(any::<prop::sample::Index>()), 0..4),
        words in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(WORDS)), 0..4),
    ) {
        let sound = sound_file();
        let data_start = parse(&sound).unwrap().data_start;
        let mut text = sound[8..data_start].to_vec();
        // Pieces begin and end at a comma or a brace mostly, which leaves more of them JSON.
        let cut = |text: &[u8], index: &prop::sample::Index, exact: bool| {
            let places: Vec<usize> = (0..text.len()).filter(|&i| exact || b",{}[]".contains(&text[i])).collect();
            *index.get(&places)
        };
        for [from, to, at, exact] in &copies {
            let exact = exact.index(8) == 0;
            let (a, b) = (cut(&text, from, exact), cut(&text, to, exact));
            let piece = text[a.min(b)..a.max(b)].to_vec();
            let at = cut(&text, at, exact);
            text.splice(at..at, piece);
        }
        for (at, word) in &words {
            let at = at.index(text.len());
            text.splice(at..at, word.bytes());
        }
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(&text);
        bytes.extend(&sound[data_start..]);
        if parse(&bytes).is_ok() {
            let read = safetensors::SafeTensors::read_metadata(&bytes);
            prop_assert!(read.is_ok(), "{} {:?}", String::from_utf8_lossy(&text), read.err());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }
}

fn with_header(json: &str, data: usize) -> std::result::Result<header::Header, HeaderError> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    parse(&bytes)
}

#[test]
fn each_fault_of_a_header_has_its_error() {
    let header = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    assert!(with_header(&header("F32", "[2]", "[0,8]"), 8).is_ok());
    type E = HeaderError;
    let error = |json: String, data| with_header(&json, data).unwrap_err();
    assert!(matches!(error(header("F4", "[2]", "[0,1]"), 1), E::Dtype { dtype, .. } if dtype == "F4"));
    assert!(matches!(error(header("F32", "[4294967296,4294967296,4]", "[0,8]"), 8), E::Overflow { .. }));
    assert!(matches!(error(header("F32", "[0,4294967296,4294967296]", "[0,0]"), 0), E::Overflow { .. }));
    assert!(matches!(error(header("U8", "[0,9223372036854775808]", "[0,0]"), 0), E::Overflow { .. }));
    let dimensions = |n: usize| format!("[{}]", vec!["1"; n].join(","));
    assert!(with_header(&header("U8", &dimensions(32), "[0,1]"), 1).is_ok());
    let long = |what: &str| what.contains("a list has more than 32 items");
    assert!(matches!(error(header("U8", &dimensions(33), "[0,1]"), 1), E::Json(what) if long(&what)));
    let named = |n: usize| header("U8", "[1]", "[0,1]").replace('x', &"x".repeat(n));
    assert!(with_header(&named(1000), 1).is_ok());
    assert!(matches!(error(named(1001), 1), E::Field { expected: "at most 1000 bytes", .. }));
    assert!(matches!(error(header("F32", "[2]", "[0,4]"), 8), E::Size { expected: 8, .. }));
    assert!(matches!(error(header("F32", "[2]", "[8,0]"), 8), E::Size { .. }));
    assert!(matches!(error(header("F32", "[2]", "[4,12]"), 12), E::Gap { start: 4, previous: 0, .. }));
    assert!(matches!(error(header("F32", "[2]", "[0,8]"), 7), E::Truncated { .. }));
    assert!(matches!(error(header("F32", "[2]", "[0,8]"), 9), E::Trailing { extra: 1, .. }));
    assert!(matches!(error(header("F32", "[-2]", "[0,8]"), 8), E::Field { .. }));
    assert!(matches!(error(header("F32", "[2]", "[0,8,9]"), 8), E::Field { .. }));
    assert!(matches!(error(header("U8", "[1]", "[18446744073709551615,18446744073709551615]"), 8), E::Size { .. }));
    assert!(matches!(error("{".into(), 0), E::Json(_)));
    assert!(matches!(error(" {}".into(), 0), E::Json(_)));
    assert!(matches!(error("[".repeat(100_000), 0), E::Json(_)));
    assert!(matches!(parse(&u64::MAX.to_le_bytes()), Err(E::TooLong(_))));
    assert!(matches!(parse(&100u64.to_le_bytes()), Err(E::Short { expected: 108, got: 8 })));
    assert!(matches!(parse(&[]), Err(E::Short { .. })));
    let twice = |inner: &str| matches!(error(inner.into(), 8), E::Json(what) if what.contains("is there twice"));
    let x = r#""x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    assert!(twice(&format!("{{{x},{x}}}")));
    assert!(twice(&format!(r#"{{"x":0,{x}}}"#)));
    assert!(twice(r#"{"x":{"dtype":"F16","dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#));
    assert!(twice(&format!(r#"{{"__metadata__":{{"xxh3":"0","xxh3":"1"}},{x}}}"#)));
    let overlap =
        r#"{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"y":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    assert!(matches!(error(overlap.into(), 6), E::Gap { .. }));
}

#[test]
fn a_built_header_parses_back() {
    let metadata = BTreeMap::from([("k".to_owned(), "v\"\n".to_owned())]);
    let shape = [5, 3];
    let mut bytes = build(&[("t", Dtype::F16, &shape), ("e", Dtype::U8, &[0])], &metadata);
    let start = bytes.len();
    bytes.resize(start + 30, 0);
    let header = parse(&bytes).unwrap();
    assert_eq!((header.metadata, header.data_start), (metadata, start));
    let info = &header.tensors["t"];
    assert_eq!((info.dtype, &info.shape[..], info.start, info.end), (Dtype::F16, &shape[..], start, start + 30));
}

#[test]
fn appended_rows_lie_in_the_same_shards_whatever_the_batches() {
    let values: Vec<f32> = (0..70).map(|i| i as f32).collect();
    let mut layouts = Vec::new();
    for batch in [1, 3, 35] {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path(), 2, Dtype::F32, 8, false).unwrap();
        for rows_of_appender in values.chunks(batch * 2 * 5) {
            // A new appender for each batch: it takes up the last, shorter shard.
            let mut appender = Appender::new(&store).unwrap();
            rows_of_appender.chunks(batch * 2).for_each(|rows_| appender.append(rows(rows_, 2)).unwrap());
            appender.flush().unwrap();
        }
        assert_eq!(store.check_complete().unwrap(), 35);
        let files: Vec<_> = (0..5).map(|index| fs::read(store.shard_path(index)).unwrap()).collect();
        layouts.push(files);
    }
    assert!(layouts.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn gaps_are_reported_and_refused_where_all_rows_are_needed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(directory.path(), 1, Dtype::I8, 2, false).unwrap();
    for index in [0, 2, 3] {
        store.write_shard(index, rows(&[1.0, 2.0], 1), &[]).unwrap();
    }
    assert_eq!(store.missing(9).unwrap(), [1, 4]);
    assert_eq!(store.missing(7).unwrap(), [1, 3], "shard 3 would have one row only");
    assert!(store.check_complete().unwrap_err().to_string().contains("00000001.safetensors: missing"));
    let report = store.verify(&Supervisor::none()).unwrap();
    assert_eq!((report.shards, report.rows, report.missing), (3, 6, vec![1]));
    assert!(Appender::new(&store).is_err());
}

#[test]
fn verify_names_every_bad_shard() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(directory.path(), 4, Dtype::F16, 2, false).unwrap();
    for index in 0..4 {
        store.write_shard(index, rows(&[1.0; 8], 4), &[]).unwrap();
    }
    let damage = |index: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(store.shard_path(index)).unwrap();
        change(&mut bytes);
        fs::write(store.shard_path(index), bytes).unwrap();
    };
    damage(1, &|bytes| bytes.truncate(bytes.len() - 1));
    damage(3, &|bytes| *bytes.last_mut().unwrap() ^= 1);
    let message = store.verify(&Supervisor::none()).unwrap_err().to_string();
    assert!(message.contains("2 of 4 shards are bad"), "{message}");
    assert!(message.contains("00000001.safetensors: truncated: expected"), "{message}");
    assert!(message.contains("00000003.safetensors: checksum differs"), "{message}");
    // A shard under another's name is not taken for it.
    fs::copy(store.shard_path(0), store.shard_path(2)).unwrap();
    assert!(store.verify(&Supervisor::none()).unwrap_err().to_string().contains("first_row"));
}

#[test]
fn leftovers_of_a_killed_writer_are_ignored_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(directory.path(), 1, Dtype::F32, 2, false).unwrap();
    let leftover = directory.path().join(".00000000.safetensors.1-0-0.tmp");
    let other = directory.path().join(".00000001.safetensors.1-0-0.tmp");
    fs::write(&leftover, "half").unwrap();
    fs::write(&other, "half").unwrap();
    assert_eq!(store.len().unwrap(), 0);
    store.write_shard(0, rows(&[1.0], 1), &[]).unwrap();
    assert!(!leftover.exists() && other.exists(), "another process may be writing the other shard");
}

#[cfg(unix)]
#[test]
fn a_file_is_written_to_no_place_but_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let (path, outside) = (directory.path().join("t.safetensors"), directory.path().join("outside"));
    fs::write(&outside, "mine").unwrap();
    std::os::unix::fs::symlink(&outside, &path).unwrap();
    write(&path, &[], &BTreeMap::new()).unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
    assert!(path.symlink_metadata().unwrap().is_file());
}

#[test]
fn a_message_is_short_whatever_a_header_holds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.safetensors");
    let names: Vec<String> = (0..500).map(|i| format!("{i:0>900}")).collect();
    let tensors: Vec<_> =
        names.iter().map(|name| TensorData { name, dtype: Dtype::U8, shape: vec![0], bytes: &[] }).collect();
    let metadata =
        BTreeMap::from([(MADE_FROM.to_owned(), "a".repeat(1 << 20)), ("first_row".into(), "9".repeat(9999))]);
    write(&path, &tensors, &metadata).unwrap();
    let file = TensorFile::open(&path).unwrap();
    for error in [file.info("x").unwrap_err(), file.expect("b").unwrap_err()] {
        assert!(error.to_string().len() < 20_000);
    }
}

#[test]
fn a_number_that_no_store_has_makes_nobody_count_up_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(directory.path(), 1, Dtype::F32, 2, false).unwrap();
    store.write_shard(0, rows(&[1.0, 2.0], 1), &[]).unwrap();
    for number in ["1000000", "18446744073709551615", "99999999999999999999999"] {
        fs::copy(store.shard_path(0), directory.path().join(format!("{number}.safetensors"))).unwrap();
    }
    assert_eq!((store.shard_indices().unwrap(), store.len().unwrap()), (vec![0], 2));
    assert!(store.verify(&Supervisor::none()).unwrap().missing.is_empty());
    let error = store.write_shard(MAX_SHARDS, rows(&[1.0], 1), &[]).unwrap_err();
    assert!(error.to_string().contains("shard 1000000: expected at most 1000000 shards"), "{error}");
    assert!(Store::new(directory.path(), 1, Dtype::F32, usize::MAX / 8, "").is_err(), "its rows have no numbers");
}
