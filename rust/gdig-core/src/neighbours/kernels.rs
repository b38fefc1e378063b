//! The kernels that let candidates in, from the coarsest and fastest to float32.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::simd::Kernel;
use crate::{Error, Result};

/// What the search can use, the fastest first, by what was measured or by the instructions that a pair of rows takes
/// (LOG.md).
const FASTEST: [Kernel; 13] = [
    Kernel::AmxBf16,
    Kernel::Avx512VnniInt8,
    Kernel::Avx512Bf16,
    Kernel::AvxVnniInt8,
    Kernel::Avx512,
    Kernel::Avx2Int8,
    Kernel::NeonI8mmInt8,
    Kernel::NeonBf16,
    Kernel::NeonInt8,
    Kernel::Neon,
    Kernel::Avx2,
    Kernel::PortableInt8,
    Kernel::Portable,
];

/// An exact comparison costs as much as some 60 pairs of a coarse kernel save beside float32.
const TOO_MANY: u64 = 64;

/// Pairs to look at before a kernel is judged.
const ENOUGH: u64 = if cfg!(test) { 1 << 10 } else { 1 << 20 };

/// The kernels of one search. A coarse kernel is fast, but where many rows are nearer to each other than it tells apart,
/// it lets too many candidates in. Then the search goes on with the next. Which kernel looks at which pairs depends on
/// the threads; the result does not, because candidates are compared exactly.
pub struct Kernels {
    list: Vec<Kernel>,
    current: AtomicUsize,
    /// Of the current kernel: the pairs, and the candidates among them beyond the k of each row.
    pairs: AtomicU64,
    beyond: AtomicU64,
}

impl Kernels {
    /// The kernel asked for alone, or those that suit this machine, for rows of `dim` columns.
    pub fn new(asked: Option<Kernel>, dim: usize) -> Result<Kernels> {
        let can = |kernel: &Kernel| kernel.is_available() && kernel.has_room_for(dim);
        let available: Vec<Kernel> = FASTEST.into_iter().filter(can).collect();
        let list = match asked {
            None => ever_finer(available.iter().copied().filter(|kernel| kernel.is_faster())),
            Some(kernel) if available.contains(&kernel) => vec![kernel],
            Some(kernel) => {
                let names: Vec<_> = Kernel::ALL.iter().filter(|k| available.contains(&k.0)).map(|k| k.1).collect();
                let what = format!("neighbours of {dim} columns are searched with {}", names.join(", "));
                return Err(Error::input(format!("kernel {:?}: {what}", kernel.name())));
            }
        };
        Ok(Kernels { list, current: AtomicUsize::new(0), pairs: AtomicU64::new(0), beyond: AtomicU64::new(0) })
    }

    pub fn list(&self) -> &[Kernel] {
        &self.list
    }

    /// The place in the list of the kernel to use.
    pub fn current(&self) -> usize {
        self.current.load(Relaxed)
    }

    /// Count what the kernel at `place` has let in. After too many the next one becomes the current.
    pub fn count(&self, place: usize, pairs: u64, beyond: u64) {
        if place != self.current() || place + 1 == self.list.len() {
            return;
        }
        let pairs = self.pairs.fetch_add(pairs, Relaxed) + pairs;
        let beyond = self.beyond.fetch_add(beyond, Relaxed) + beyond;
        let too_many = pairs >= ENOUGH && beyond > pairs / TOO_MANY;
        if too_many && self.current.compare_exchange(place, place + 1, Relaxed, Relaxed).is_ok() {
            self.pairs.store(0, Relaxed);
            self.beyond.store(0, Relaxed);
        }
    }
}

/// The fastest, then each that rounds less than those before it, down to float32.
fn ever_finer(fastest: impl Iterator<Item = Kernel>) -> Vec<Kernel> {
    let fineness =
        |kernel: Kernel| ["int8", "bfloat16", "float32"].iter().position(|r| kernel.rounding().starts_with(r));
    let mut list: Vec<Kernel> = Vec::new();
    for kernel in fastest {
        if list.last().is_none_or(|&last| fineness(kernel) > fineness(last)) {
            list.push(kernel);
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::int8;

    #[test]
    fn a_kernel_is_followed_by_finer_ones() {
        use Kernel::*;
        let chips: [(&[Kernel], &[Kernel]); 9] = [
            (&[Avx512VnniInt8, Avx512Bf16, AvxVnniInt8, Avx512, Avx2], &[Avx512VnniInt8, Avx512Bf16, Avx512]),
            (&[NeonI8mmInt8, NeonBf16, NeonInt8, Neon, PortableInt8], &[NeonI8mmInt8, NeonBf16, Neon]),
            (&[NeonInt8, Neon, PortableInt8, Portable], &[NeonInt8, Neon]),
            (&[AmxBf16, Avx512VnniInt8, Avx512, Avx2Int8, Avx2, PortableInt8, Portable], &[AmxBf16, Avx512]),
            (&[Avx512VnniInt8, Avx512, Avx2Int8, Avx2, PortableInt8, Portable], &[Avx512VnniInt8, Avx512]),
            (&[Avx512, Avx2Int8, Avx2, PortableInt8, Portable], &[Avx512]),
            (&[AvxVnniInt8, Avx2Int8, Avx2, PortableInt8, Portable], &[AvxVnniInt8, Avx2]),
            (&[Neon, PortableInt8, Portable], &[Neon]),
            (&[PortableInt8, Portable], &[PortableInt8, Portable]),
        ];
        for (available, expected) in chips {
            assert!(available.iter().all(|kernel| FASTEST.contains(kernel)));
            assert_eq!(ever_finer(available.iter().copied()), expected);
        }
        let of_this_machine = Kernels::new(None, 8).unwrap();
        assert_eq!(of_this_machine.list().last().unwrap().rounding(), "float32");
        let wide = Kernels::new(None, int8::MAX_DIM + 1).unwrap();
        assert!(wide.list().iter().all(|kernel| kernel.rounding() != "int8"));
        assert!(Kernels::new(Some(PortableInt8), int8::MAX_DIM + 1).is_err());
    }

    #[test]
    fn too_many_candidates_bring_the_next_kernel() {
        let list = vec![Kernel::PortableInt8, Kernel::Portable];
        let kernels = Kernels { list, ..Kernels::new(None, 8).unwrap() };
        kernels.count(0, ENOUGH - 1, ENOUGH - 1);
        assert_eq!(kernels.current(), 0, "too few pairs to tell");
        kernels.count(0, 63 * ENOUGH + 1, 1);
        assert_eq!(kernels.current(), 0, "a share of one in 64");
        kernels.count(0, 0, 1);
        assert_eq!(kernels.current(), 1);
        // What a thread still brings of the kernel before does not count, and the last kernel has no next.
        kernels.count(0, 1 << 40, 1 << 40);
        kernels.count(1, 1 << 40, 1 << 40);
        assert_eq!(kernels.current(), 1);
    }
}
