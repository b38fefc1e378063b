//! The one source of randomness: a hash of (seed, row). It depends on neither threads, nor order, nor shards.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// XXH3-64 of the row number as 8 little-endian bytes, seeded. Smaller is drawn earlier.
#[inline]
pub fn row_hash(seed: u64, row: u64) -> u64 {
    xxh3_64_with_seed(&row.to_le_bytes(), seed)
}

/// The hashes of many rows.
pub fn row_hashes(seed: u64, rows: &[i64]) -> Vec<u64> {
    rows.iter().map(|&row| row_hash(seed, row as u64)).collect()
}

/// A seed for one purpose, independent of the seeds for all others.
pub fn derive(seed: u64, purpose: &str) -> u64 {
    xxh3_64_with_seed(purpose.as_bytes(), seed)
}

/// The hash as a number strictly between 0 and 1: its upper 52 bits, in the middle of their step: never 0, so that
/// a logarithm is finite, and never 1 (with 53 bits the topmost would round to it).
#[inline]
pub fn unit(hash: u64) -> f64 {
    ((hash >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_stays_inside_the_open_interval() {
        assert!(unit(0) > 0.0);
        assert!(unit(u64::MAX) < 1.0);
    }

    #[test]
    fn purposes_and_seeds_differ() {
        assert_ne!(derive(0, "train"), derive(0, "clusters"));
        assert_ne!(derive(0, "train"), derive(1, "train"));
        assert_ne!(row_hash(0, 1), row_hash(0, 2));
    }
}
