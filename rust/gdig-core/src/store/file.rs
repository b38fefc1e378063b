//! A tensor file: safetensors with a checksum in its metadata. A file is complete or absent.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

#[cfg(unix)]
use memmap2::Advice;
use memmap2::Mmap;
use xxhash_rust::xxh3::Xxh3;

use super::atomic::{write_atomic, write_renamed};
use super::direct::DirectFile;
use super::header::{self, Header, TensorInfo};
use super::sound::{is_sound, remember, Identity};
use crate::{Dtype, Error, Result};

const FORMAT_KEY: &str = "gdig_format";
const FORMAT: &str = "1";
const CHECKSUM_KEY: &str = "xxh3";
/// The digits that stand for the checksum while it is computed.
const NO_CHECKSUM: &str = "0000000000000000";
/// What a file was made from, as its writer gave it.
pub const MADE_FROM: &str = "made_from";
/// The most names of tensors in a message.
const SHOWN_NAMES: usize = 20;
/// Bytes read and hashed at once; few enough for the cache of a core.
const HASH_STEP: usize = 256 << 10;

/// A tensor to write: borrowed, little-endian, C order.
#[derive(Clone, Debug)]
pub struct TensorData<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: &'a [u8],
}

/// Write a file that is complete or absent. Tensors lie by element size, largest first, then by name. So each tensor is
/// aligned to its elements, and the same tensors give the same bytes. Returns the length of the file.
pub fn write(path: &Path, tensors: &[TensorData], metadata: &BTreeMap<String, String>) -> Result<u64> {
    encode(path, tensors, metadata, |pieces| write_atomic(path, pieces))
}

/// `write` for one of many files in a directory. It neither lists nor syncs the directory, which would take longer than
/// the file. The caller calls `remove_leftovers` before the first file and `sync_directory` after the last.
pub fn write_one_of_many(path: &Path, tensors: &[TensorData], metadata: &BTreeMap<String, String>) -> Result<u64> {
    encode(path, tensors, metadata, |pieces| write_renamed(path, pieces))
}

/// Hand the pieces of a file to `write`, in order. Returns the length of the file.
fn encode(
    path: &Path,
    tensors: &[TensorData],
    metadata: &BTreeMap<String, String>,
    write: impl FnOnce(&[&[u8]]) -> Result<()>,
) -> Result<u64> {
    let mut order: Vec<&TensorData> = tensors.iter().collect();
    order.sort_by(|a, b| b.dtype.size().cmp(&a.dtype.size()).then(a.name.cmp(b.name)));
    for tensor in &order {
        debug_assert_eq!(tensor.shape.iter().product::<usize>() * tensor.dtype.size(), tensor.bytes.len());
        if tensor.name == "__metadata__" || tensors.iter().filter(|t| t.name == tensor.name).count() > 1 {
            return Err(Error::store(
                path,
                format!("tensor name {:?} is reserved or given twice; choose another one", tensor.name),
            ));
        }
    }
    let mut metadata = metadata.clone();
    for (key, value) in [(FORMAT_KEY, FORMAT), (CHECKSUM_KEY, NO_CHECKSUM)] {
        if metadata.insert(key.into(), value.into()).is_some() {
            return Err(Error::store(path, format!("metadata key {key:?} is reserved; choose another one")));
        }
    }
    let layout: Vec<_> = order.iter().map(|t| (t.name, t.dtype, &t.shape[..])).collect();
    let mut header = header::build(&layout, &metadata);
    let mut hash = Xxh3::new();
    hash.update(&header);
    order.iter().for_each(|tensor| hash.update(tensor.bytes));
    let digits = checksum_digits(&header, NO_CHECKSUM).expect("build wrote the metadata given to it");
    header[digits..digits + 16].copy_from_slice(format!("{:016x}", hash.digest()).as_bytes());

    let pieces: Vec<&[u8]> = std::iter::once(&header[..]).chain(order.iter().map(|t| t.bytes)).collect();
    write(&pieces)?;
    Ok(pieces.iter().map(|piece| piece.len() as u64).sum())
}

/// The place of the digits of the checksum in the header. A quote inside a JSON string is escaped, so the pattern
/// cannot be part of another key or value.
fn checksum_digits(header: &[u8], digits: &str) -> Option<usize> {
    let pattern = format!("\"{CHECKSUM_KEY}\":\"{digits}\"");
    let start = header.windows(pattern.len()).position(|window| window == pattern.as_bytes())?;
    Some(start + CHECKSUM_KEY.len() + 4)
}

/// A mapped tensor file with a checked header. `open_sound` and `verify` check the data.
pub struct TensorFile {
    path: PathBuf,
    header: Header,
    map: Mmap,
    identity: Identity,
}

impl TensorFile {
    pub fn open(path: &Path) -> Result<TensorFile> {
        TensorFile::map(path, &open_file(path)?)
    }

    /// Open a file, and compare its checksum unless this process has done so. Every reader of data comes through here.
    /// `check` says whether to go on.
    pub fn open_sound(path: &Path, check: &dyn Fn() -> Result<()>) -> Result<TensorFile> {
        let file = open_file(path)?;
        let opened = TensorFile::map(path, &file)?;
        if !is_sound(&opened.identity) {
            opened.compare(&file, check)?;
            remember(opened.identity.clone());
        }
        Ok(opened)
    }

    fn map(path: &Path, file: &File) -> Result<TensorFile> {
        let identity = Identity::of(file).map_err(Error::io(path, "open"))?;
        // SAFETY: a mapping is sound while nobody shortens or changes the file. This crate replaces a file by renaming
        // another one over it, which leaves the mapped file as it was. A program that shortens a file during a read
        // breaks that contract, and the reader gets SIGBUS.
        let map = unsafe { Mmap::map(file) }.map_err(Error::io(path, "map"))?;
        let path = path.to_path_buf();
        // Without the advice, a look at the header reads as much as the system reads ahead, megabytes.
        advise(&map, Advice::Random);
        let header = header::parse(&map);
        advise(&map, Advice::Normal);
        match header {
            Ok(header) => Ok(TensorFile { path, header, map, identity }),
            Err(source) => Err(Error::Header { path, source }),
        }
    }

    /// The same file for direct reads, if the system grants them. What is read through the mapping after that is not
    /// read ahead.
    pub fn direct(&self) -> Option<DirectFile> {
        DirectFile::open(&self.path, &self.identity).inspect(|_| advise(&self.map, Advice::Random))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.tensors.get(name).ok_or_else(|| {
            let names: Vec<_> = self.header.tensors.keys().take(SHOWN_NAMES).map(String::as_str).collect();
            let more = if self.header.tensors.len() > SHOWN_NAMES { ", ..." } else { "" };
            Error::store(&self.path, format!("no tensor {name:?}; it holds {}{more}", names.join(", ")))
        })
    }

    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let info = self.info(name)?;
        Ok(&self.map[info.start..info.end])
    }

    /// A tensor as a slice of its elements.
    pub fn typed<T: bytemuck::Pod>(&self, name: &str, dtype: Dtype) -> Result<&[T]> {
        let actual = self.info(name)?.dtype;
        if actual != dtype {
            let what = format!("tensor {name:?}: expected {}, got {}", dtype.name(), actual.name());
            return Err(Error::store(&self.path, what));
        }
        bytemuck::try_cast_slice(self.bytes(name)?)
            .map_err(|_| Error::store(&self.path, format!("tensor {name:?} is not aligned to its elements")))
    }

    /// The checksum in the header, 16 hexadecimal digits.
    pub fn recorded_checksum(&self) -> Result<&str> {
        let get = |key| self.header.metadata.get(key).map(String::as_str);
        match get(FORMAT_KEY) {
            Some(FORMAT) => {}
            Some(other) => {
                let what = format!("format {:?}: expected {FORMAT_KEY} {FORMAT:?}", shortened(other));
                return Err(Error::store(&self.path, what));
            }
            None => return Err(Error::store(&self.path, format!("no {FORMAT_KEY} in its metadata: not made by gdig"))),
        }
        get(CHECKSUM_KEY)
            .filter(|digits| digits.len() == 16)
            .ok_or_else(|| Error::store(&self.path, "no checksum of 16 digits in its metadata"))
    }

    /// What the file was made from, as its writer gave it; empty if it was given nothing.
    pub fn made_from(&self) -> &str {
        self.header.metadata.get(MADE_FROM).map_or("", String::as_str)
    }

    /// Check that the file was made from `expected`.
    pub fn expect(&self, expected: &str) -> Result<()> {
        let got = self.made_from();
        if got == expected {
            return Ok(());
        }
        Err(Error::Foreign { path: self.path.clone(), expected: expected.into(), got: shortened(got) })
    }

    /// The metadata without the keys of the format itself.
    pub fn user_metadata(&self) -> BTreeMap<String, String> {
        let entries = self.header.metadata.iter().filter(|(key, _)| *key != FORMAT_KEY && *key != CHECKSUM_KEY);
        entries.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Read the whole file and compare its checksum. `check` says again and again whether to go on.
    pub fn verify(&self, check: &dyn Fn() -> Result<()>) -> Result<()> {
        self.compare(&open_file(&self.path)?, check)
    }

    /// Compare the checksum with the content of `file`, which is at its start.
    fn compare(&self, mut file: &File, check: &dyn Fn() -> Result<()>) -> Result<()> {
        let recorded = self.recorded_checksum()?;
        let mut header = vec![0; self.header.data_start];
        file.read_exact(&mut header).map_err(Error::io(&self.path, "read"))?;
        let digits = checksum_digits(&header, recorded)
            .ok_or_else(|| Error::store(&self.path, "the checksum is not written as gdig writes it"))?;
        header[digits..digits + 16].copy_from_slice(NO_CHECKSUM.as_bytes());
        let mut hash = Xxh3::new();
        hash.update(&header);
        update_from(&mut hash, &mut file, &self.path, check)?;
        let computed = format!("{:016x}", hash.digest());
        if computed == recorded {
            return Ok(());
        }
        Err(Error::Checksum { path: self.path.clone(), recorded: recorded.into(), computed })
    }
}

/// A text of a file as a message shows it: its first 200 characters.
pub fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

/// A hint: where the system cannot take it, nothing happens.
#[cfg(unix)]
fn advise(map: &Mmap, advice: Advice) {
    let _ = map.advise(advice);
}

#[cfg(not(unix))]
enum Advice {
    Normal,
    Random,
}

#[cfg(not(unix))]
fn advise(_map: &Mmap, _advice: Advice) {}

/// Open a file to read. Folders, pipes and devices are refused: to open a pipe would wait for its writer, and a device
/// may have no end.
pub fn open_file(path: &Path) -> Result<File> {
    if !fs::metadata(path).map_err(Error::io(path, "open"))?.is_file() {
        return Err(Error::store(path, "expected a file, got something else, such as a folder or a pipe"));
    }
    File::open(path).map_err(Error::io(path, "open"))
}

/// XXH3-64 over the content of a file of any kind, as 16 hexadecimal digits.
pub fn content_checksum(path: &Path, check: &dyn Fn() -> Result<()>) -> Result<String> {
    let mut file = open_file(path)?;
    let mut hash = Xxh3::new();
    update_from(&mut hash, &mut file, path, check)?;
    Ok(format!("{:016x}", hash.digest()))
}

/// Hash the rest of a file. The bytes are read, not mapped: a disk that cannot give them is then an error, where a
/// mapping would end the process.
fn update_from(hash: &mut Xxh3, file: &mut impl Read, path: &Path, check: &dyn Fn() -> Result<()>) -> Result<()> {
    let mut step = vec![0; HASH_STEP];
    loop {
        check()?;
        match file.read(&mut step).map_err(Error::io(path, "read"))? {
            0 => return Ok(()),
            n => hash.update(&step[..n]),
        }
    }
}
