//! The one source of randomness: a hash of (random seed, row). Threads, order and shards do not change it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// XXH3-64 of the row number as 8 little-endian bytes, with a random seed. Draws take the smallest hash first.
#[inline]
pub fn row_hash(random_seed: u64, row: u64) -> u64 {
    xxh3_64_with_seed(&row.to_le_bytes(), random_seed)
}

/// `row_hash` that has computed beforehand what depends on the random seed alone. It is several times faster over all
/// rows of a pool.
#[derive(Clone, Copy)]
pub struct RowHash {
    flip: u64,
}

impl RowHash {
    pub fn new(random_seed: u64) -> RowHash {
        // XXH3's case of 4 to 8 bytes: the random seed mixed with its own lower half and two words of the default
        // secret.
        let random_seed = random_seed ^ u64::from((random_seed as u32).swap_bytes()) << 32;
        RowHash { flip: (0x1cad_21f7_2c81_017c ^ 0xdb97_9083_e96d_d4de_u64).wrapping_sub(random_seed) }
    }

    #[inline]
    pub fn of(self, row: u64) -> u64 {
        const PRIME: u64 = 0x9fb2_1c65_1e98_df25;
        let mut x = row.rotate_left(32) ^ self.flip;
        x ^= x.rotate_left(49) ^ x.rotate_left(24);
        x = x.wrapping_mul(PRIME);
        x ^= (x >> 35) + 8; // the length in bytes
        x = x.wrapping_mul(PRIME);
        x ^ x >> 28
    }
}

/// The hashes of many rows.
pub fn row_hashes(random_seed: u64, rows: &[i64]) -> Vec<u64> {
    let hash = RowHash::new(random_seed);
    rows.iter().map(|&row| hash.of(row as u64)).collect()
}

/// A random seed for one purpose, independent of the random seeds for all other purposes.
pub fn derive(random_seed: u64, purpose: &str) -> u64 {
    xxh3_64_with_seed(purpose.as_bytes(), random_seed)
}

/// The hash as a number strictly between 0 and 1: its upper 52 bits, in the middle of their step. It is never 0, so
/// that its logarithm is finite. It is never 1, to which 53 bits could round.
#[inline]
pub fn unit(hash: u64) -> f64 {
    ((hash >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_prepared_hash_is_xxh3(random_seed in any::<u64>(), row in any::<u64>(), small in 0u64..1000) {
            for (random_seed, row) in [(random_seed, row), (small, row), (random_seed, small), (0, row), (u64::MAX, small)] {
                prop_assert_eq!(RowHash::new(random_seed).of(row), row_hash(random_seed, row));
            }
        }
    }

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
