//! The header of a shard as hostile bytes: no panic, and nothing accepted that would lead a reader astray.

#![no_main]

use gdig_core::store::header::{build, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = parse(bytes) else { return };
    // Tensors fill the file behind the header, each once, and each has the length of its shape.
    let mut order: Vec<_> = header.tensors.iter().collect();
    order.sort_by_key(|(_, info)| (info.start, info.end));
    let mut end = header.data_start;
    for (name, info) in &order {
        assert_eq!(info.start, end, "{name}");
        assert_eq!(info.end - info.start, info.shape.iter().product::<usize>() * info.dtype.size(), "{name}");
        end = info.end;
    }
    assert_eq!(end, bytes.len());
    // The reference reader takes what we take.
    safetensors::SafeTensors::read_metadata(bytes).expect("we accepted it");
    // What we would write for the same tensors says the same.
    let layout: Vec<_> = order.iter().map(|(name, info)| (name.as_str(), info.dtype, &info.shape[..])).collect();
    let mut again = build(&layout, &header.metadata);
    let data_start = again.len();
    again.resize(data_start + bytes.len() - header.data_start, 0);
    let again = parse(&again).expect("we built it");
    assert_eq!((&again.metadata, again.data_start), (&header.metadata, data_start));
    assert!(again
        .tensors
        .iter()
        .map(|(name, info)| (name, &info.shape))
        .eq(header.tensors.iter().map(|(n, i)| (n, &i.shape))));
});
