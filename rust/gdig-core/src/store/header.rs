//! The header of a safetensors file: 8 bytes of length, then JSON. The reader treats a header as hostile input. The
//! writer gives the same bytes for the same tensors.
//!
//! The crate `safetensors` has a parser too. It accepts equal keys and types that no store has, and its errors name
//! neither the numbers nor, for a wrong size, the tensor. So it is the reference of the tests, not the parser.

use std::collections::BTreeMap;

use serde_json::{json, Map, Value};

use super::strict_json::Strict;
use crate::error::{HeaderError, MAX_HEADER};
use crate::Dtype;

/// The data start at a multiple of this number, so that the first tensor of a mapped file is aligned to a cache line.
const ALIGNMENT: usize = 64;
const METADATA: &str = "__metadata__";
/// The most bytes of a tensor's name, so that it fits into a message.
const MAX_NAME: usize = 1000;

/// A tensor of the file. `start` and `end` count bytes from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub start: usize,
    pub end: usize,
}

/// A checked header: the tensors fill the rest of the file without gap or overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub metadata: BTreeMap<String, String>,
    pub tensors: BTreeMap<String, TensorInfo>,
    /// The length of the JSON, and the 8 bytes before it.
    pub data_start: usize,
}

/// Parse and check the header of `file`, the bytes of a whole file.
pub fn parse(file: &[u8]) -> Result<Header, HeaderError> {
    let short = |expected| HeaderError::Short { expected, got: file.len() };
    let (length, rest) = file.split_first_chunk::<8>().ok_or(short(8))?;
    let length = u64::from_le_bytes(*length);
    let length = usize::try_from(length).ok().filter(|&n| n <= MAX_HEADER).ok_or(HeaderError::TooLong(length))?;
    let data_start = 8 + length;
    let text = rest.get(..length).ok_or(short(data_start))?;
    // Readers of safetensors may insist on this first byte, so this reader does too.
    if text.first() != Some(&b'{') {
        return Err(HeaderError::Json("it does not begin with '{'".into()));
    }
    let Strict(json) = serde_json::from_slice(text).map_err(|e| HeaderError::Json(e.to_string()))?;
    let Value::Object(json) = json else { return Err(HeaderError::Json("it is not an object".into())) };

    let mut metadata = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (name, value) in json {
        if name == METADATA {
            metadata = parse_metadata(&value)?;
        } else {
            if name.len() > MAX_NAME {
                return Err(field("the name of each tensor", "at most 1000 bytes"));
            }
            let info = parse_tensor(&name, &value, data_start)?;
            tensors.insert(name, info);
        }
    }
    check_layout(&tensors, data_start, file.len())?;
    Ok(Header { metadata, tensors, data_start })
}

fn field(field: impl Into<String>, expected: &'static str) -> HeaderError {
    HeaderError::Field { field: field.into(), expected }
}

fn parse_metadata(value: &Value) -> Result<BTreeMap<String, String>, HeaderError> {
    let entries = value.as_object().ok_or_else(|| field(METADATA, "an object of strings"))?;
    let entry = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    entries.iter().map(|pair| entry(pair).ok_or_else(|| field(METADATA, "an object of strings"))).collect()
}

fn parse_tensor(name: &str, value: &Value, data_start: usize) -> Result<TensorInfo, HeaderError> {
    let bad = |key: &str, expected| field(format!("{key} of tensor {name:?}"), expected);
    let numbers = |key: &str| -> Option<Vec<usize>> {
        value.get(key)?.as_array()?.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect()
    };
    let dtype = value.get("dtype").and_then(Value::as_str).ok_or_else(|| bad("dtype", "a string"))?;
    let dtype = Dtype::from_safetensors(dtype)
        .ok_or_else(|| HeaderError::Dtype { tensor: name.into(), dtype: dtype.chars().take(40).collect() })?;
    let shape = numbers("shape").ok_or_else(|| bad("shape", "a list of sizes"))?;
    let offsets = numbers("data_offsets").ok_or_else(|| bad("data_offsets", "two offsets"))?;
    let [start, end] = offsets[..] else { return Err(bad("data_offsets", "two offsets")) };

    let overflow = || HeaderError::Overflow { tensor: name.into(), shape: shape.clone() };
    // [2^40, 2^40, 0] and [0, 2^40, 2^40] are too large as well: NumPy makes no array of such a shape.
    let extent = shape.iter().try_fold(dtype.size(), |n, &s| n.checked_mul(s.max(1)));
    let extent = extent.filter(|&n| isize::try_from(n).is_ok()).ok_or_else(overflow)?;
    let expected = if shape.contains(&0) { 0 } else { extent };
    if end.checked_sub(start) != Some(expected) {
        return Err(HeaderError::Size { tensor: name.into(), expected, start, end });
    }
    let end = end.checked_add(data_start).ok_or_else(overflow)?;
    Ok(TensorInfo { dtype, shape, start: start + data_start, end })
}

/// The tensors follow one another from the end of the header to the end of the file.
fn check_layout(tensors: &BTreeMap<String, TensorInfo>, data_start: usize, file_len: usize) -> Result<(), HeaderError> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| (info.start, info.end));
    let mut expected = data_start;
    for (name, info) in order {
        if info.start != expected {
            let (start, previous) = (info.start - data_start, expected - data_start);
            return Err(HeaderError::Gap { tensor: name.clone(), start, previous });
        }
        expected = info.end;
    }
    match file_len {
        got if got < expected => Err(HeaderError::Truncated { expected, got }),
        got if got > expected => Err(HeaderError::Trailing { expected, extra: got - expected }),
        _ => Ok(()),
    }
}

/// The bytes of a header with its length, for tensors in the order given. The same input gives the same bytes: keys are
/// sorted, and blanks at the end align the data.
pub fn build(tensors: &[(&str, Dtype, &[usize])], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut json = Map::new();
    json.insert(METADATA.into(), json!(metadata));
    let mut start = 0;
    for (name, dtype, shape) in tensors {
        let end = start + shape.iter().product::<usize>() * dtype.size();
        let entry = json!({"dtype": dtype.safetensors_name(), "shape": shape, "data_offsets": [start, end]});
        json.insert((*name).into(), entry);
        start = end;
    }
    let mut text = Value::Object(json).to_string().into_bytes();
    text.resize((8 + text.len()).next_multiple_of(ALIGNMENT) - 8, b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    bytes
}
