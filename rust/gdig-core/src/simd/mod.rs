//! The search for the nearest centroid of each row. It takes distances and argmin together and never writes the [n, K]
//! block.
//!
//! The nearest centroid has the least |c|^2/2 - x.c, because |x|^2 is the same for all. Every kernel subtracts a middle
//! of the centroids from rows and centroids first. That changes no order of centroids, and keeps the precision far from
//! the origin. Ties go to the lower centroid. With every kernel, the answer for a row depends neither on its place in
//! the block nor on its neighbours.
//!
//! `scalar`, `portable`, `neon`, `avx2` and `avx512` subtract [`middle::middle`] in float32 and compare by x.c. That is
//! one chain of float32 fused multiply-adds over the columns in order, so they give the same labels. The int8 kernels take
//! exact integer sums of rounded centroids ([`int8`]). `avx512-bf16`, `amx-bf16` and `neon-bf16` round both to bfloat16
//! ([`x86_64::bf16`], [`x86_64::amx_bf16`], [`aarch64::bf16`]). Their sums are rounded in different ways, so their labels
//! may differ.

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
mod aligned;
mod best;
pub(crate) mod generic;
pub(crate) mod int8;
pub mod known;
pub mod middle;
pub(crate) mod multiply_add;
pub(crate) mod portable;
pub(crate) mod rounded;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

use crate::convert::Rows;
use crate::{Dtype, Error, Result};
use generic::F32Scratch;
use int8::panels::Int8Scratch;
use int8::portable::PortableInt8;
use known::{KnownBlock, KnownScratch, Moves};
use portable::{Portable, Sieve};
use scalar::Scalar;

/// An implementation of the search, the slowest first on most chips; those for int8 rows alone behind the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The oracle: three plain loops.
    Scalar,
    /// For any processor.
    Portable,
    Neon,
    Avx2,
    Avx512,
    /// As `AmxBf16`, by the dot product of pairs (AVX512-BF16).
    Avx512Bf16,
    /// Rows of any type, rounded to bfloat16.
    AmxBf16,
    /// As `AmxBf16`, by products of two rows and two centroids (FEAT_BF16).
    NeonBf16,
    /// For any processor. This one and those below take int8 rows as they are stored.
    PortableInt8,
    /// By the dot product of bytes (FEAT_DotProd).
    NeonInt8,
    /// By products of two rows and two centroids (FEAT_I8MM).
    NeonI8mmInt8,
    Avx2Int8,
    AvxVnniInt8,
    Avx512VnniInt8,
    AmxInt8,
}

/// Centroids laid out for one kernel. The constructor of a type returns `None` if the machine or the rows do not suit
/// it.
trait Nearest: Send + Sync {
    /// Rows for one call of `assign`. The number changes the speed, not the answer.
    fn block_rows(&self) -> usize;

    /// Write the nearest centroid of each row to `labels`. `ahead` is memory that the next call will read.
    fn assign(&self, rows: Rows, ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch);

    /// The same search for rows and centroids of which something is known; `None` if this one makes no use of that.
    fn knowing(&self) -> Option<&dyn NearestKnown> {
        None
    }
}

/// A search that is told what the search before has learned, and says what the next can use.
trait NearestKnown: Send + Sync {
    fn n_panels(&self) -> usize;

    fn moves(&self, centroids: &[f32], before: Option<&[f32]>) -> Moves;

    fn assign(&self, rows: Rows, moves: &Moves, known: KnownBlock, labels: &mut [u32], scratch: &mut Scratch);
}

/// Memory that a worker keeps between blocks.
#[derive(Default)]
pub struct Scratch {
    float32: F32Scratch,
    known: KnownScratch,
    int8: Int8Scratch,
    /// Of the rows of a block, for the portable kernel: |x|, and what is known of their centroids.
    norms: Vec<f32>,
    sieves: Vec<Sieve>,
    #[cfg(target_arch = "aarch64")]
    bf16: aarch64::bf16::Panels<{ aarch64::bf16::GROUP }>,
    #[cfg(target_arch = "x86_64")]
    bf16: x86_64::bf16::Bf16Scratch,
    #[cfg(target_arch = "x86_64")]
    tiles: x86_64::amx::TileScratch,
}

impl Kernel {
    pub const ALL: [(Kernel, &'static str); 15] = [
        (Kernel::Scalar, "scalar"),
        (Kernel::Portable, "portable"),
        (Kernel::Neon, "neon"),
        (Kernel::Avx2, "avx2"),
        (Kernel::Avx512, "avx512"),
        (Kernel::Avx512Bf16, "avx512-bf16"),
        (Kernel::AmxBf16, "amx-bf16"),
        (Kernel::NeonBf16, "neon-bf16"),
        (Kernel::PortableInt8, "portable-int8"),
        (Kernel::NeonInt8, "neon-int8"),
        (Kernel::NeonI8mmInt8, "neon-i8mm-int8"),
        (Kernel::Avx2Int8, "avx2-int8"),
        (Kernel::AvxVnniInt8, "avx-vnni-int8"),
        (Kernel::Avx512VnniInt8, "avx512-vnni-int8"),
        (Kernel::AmxInt8, "amx-int8"),
    ];

    /// The kernels of this machine.
    pub fn available() -> impl DoubleEndedIterator<Item = (Kernel, &'static str)> {
        Kernel::ALL.into_iter().filter(|(kernel, _)| kernel.is_available())
    }

    pub fn is_available(self) -> bool {
        match self {
            Kernel::Scalar | Kernel::Portable | Kernel::PortableInt8 => true,
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonBf16 => aarch64::bf16::has_bf16(),
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonInt8 => aarch64::int8::has_dot_product(),
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonI8mmInt8 => aarch64::int8::has_i8mm(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => x86_64::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => x86_64::has_avx512(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bf16 => x86_64::bf16::has_bf16(),
            #[cfg(target_arch = "x86_64")]
            Kernel::AmxBf16 => x86_64::tile::has_bf16(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2Int8 => x86_64::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnniInt8 => x86_64::int8::has_avx_vnni(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512VnniInt8 => x86_64::int8::has_avx512_vnni(),
            #[cfg(target_arch = "x86_64")]
            Kernel::AmxInt8 => x86_64::tile::has_int8(),
            _ => false,
        }
    }

    /// The rounding of a kernel. Kernels with the same rounding give the same labels.
    pub fn rounding(self) -> &'static str {
        match self {
            Kernel::AmxBf16 => "bfloat16",
            // Sums are a chain of fused multiply-adds.
            Kernel::Avx512Bf16 => "bfloat16-fused",
            // Sums are rounded to odd.
            Kernel::NeonBf16 => "bfloat16-odd",
            Kernel::Scalar | Kernel::Portable | Kernel::Neon | Kernel::Avx2 | Kernel::Avx512 => "float32",
            _ => "int8",
        }
    }

    /// Whether the kernel reads rows of this type.
    pub fn takes(self, dtype: Dtype) -> bool {
        self.rounding() != "int8" || dtype == Dtype::I8
    }

    /// Whether the kernel is faster than those before it in the list. Only for one that is available.
    pub fn is_faster(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bf16 => x86_64::bf16::is_faster(),
            _ => true,
        }
    }

    /// Whether the kernel's sums have room for so many columns.
    pub fn has_room_for(self, dim: usize) -> bool {
        self.rounding() != "int8" || dim <= int8::MAX_DIM
    }

    /// The fastest kernel of this machine that is for the rows.
    pub fn detect(stored: Dtype, rows: Dtype, dim: usize) -> Kernel {
        let suits = |kernel: &Kernel| kernel.suits(stored, rows, dim) && kernel.is_faster();
        let fastest = Kernel::available().rev().find(|(kernel, _)| suits(kernel));
        fastest.map_or(Kernel::Portable, |(kernel, _)| kernel)
    }

    /// Whether the kernel rounds no more than the type that the rows are stored in. int8 rows that are read as they are
    /// may have an int8 kernel, unless `dim` is too large for its sums. float32 and float64 rows have a float32 kernel.
    fn suits(self, stored: Dtype, rows: Dtype, dim: usize) -> bool {
        match self.rounding() {
            "float32" => true,
            "int8" => rows == Dtype::I8 && self.has_room_for(dim),
            _ => !matches!(stored, Dtype::F32 | Dtype::F64) && rows != Dtype::I8,
        }
    }

    pub fn name(self) -> &'static str {
        Kernel::ALL.iter().find(|entry| entry.0 == self).expect("every kernel is in the list").1
    }

    /// The kernel of that name, if this machine has it. Without a name, the environment variable GDIG_KERNEL names the
    /// kernel. If the variable is unset or empty, the answer is `None`: the fastest kernel for the rows.
    pub fn choose(name: Option<&str>) -> Result<Option<Kernel>> {
        let variable = std::env::var("GDIG_KERNEL").ok().filter(|name| !name.is_empty());
        let (name, origin) = match (name, &variable) {
            (Some(name), _) => (name, "kernel"),
            (None, Some(name)) => (name.as_str(), "GDIG_KERNEL:"),
            (None, None) => return Ok(None),
        };
        Kernel::available().find(|(_, n)| *n == name).map(|(kernel, _)| Some(kernel)).ok_or_else(|| {
            let names: Vec<_> = Kernel::available().map(|(_, n)| n).collect();
            Error::input(format!("{origin} {name:?}: this machine has {}", names.join(", ")))
        })
    }
}

/// Centroids laid out for a kernel. An iteration makes one.
pub struct Assigner(Box<dyn Nearest>);

impl Assigner {
    /// `centroids` is [K, dim] with K from 1 to 2^32 - 2. `dtype` is the type of the rows to come.
    pub fn new(kernel: Kernel, centroids: &[f32], dim: usize, dtype: Dtype) -> Result<Assigner> {
        let search: Option<Box<dyn Nearest>> = match kernel {
            _ if !kernel.takes(dtype) => None,
            Kernel::Scalar => Some(Box::new(Scalar::new(centroids, dim))),
            Kernel::Portable => Some(Box::new(Portable::new(centroids, dim))),
            Kernel::PortableInt8 => boxed(PortableInt8::new(centroids, dim)),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => Some(Box::new(aarch64::neon::Neon::new(centroids, dim))),
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonBf16 => boxed(aarch64::bf16::NeonBf16::new(centroids, dim)),
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonInt8 => boxed(aarch64::int8::NeonInt8::new(centroids, dim)),
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonI8mmInt8 => boxed(aarch64::int8::NeonI8mmInt8::new(centroids, dim)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => boxed(x86_64::float32::Avx2::new(centroids, dim)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => boxed(x86_64::float32::Avx512::new(centroids, dim)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bf16 => boxed(x86_64::bf16::Avx512Bf16::new(centroids, dim)),
            #[cfg(target_arch = "x86_64")]
            Kernel::AmxBf16 => boxed(x86_64::amx_bf16::AmxBf16::new(centroids, dim)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2Int8 => boxed(x86_64::int8::Avx2Int8::new(centroids, dim)),
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnniInt8 => boxed(x86_64::int8::AvxVnniInt8::new(centroids, dim)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512VnniInt8 => boxed(x86_64::int8::Avx512VnniInt8::new(centroids, dim)),
            #[cfg(target_arch = "x86_64")]
            Kernel::AmxInt8 => boxed(x86_64::amx_int8::AmxInt8::new(centroids, dim)),
            // A kernel of other processors.
            _ => None,
        };
        search.map(Assigner).ok_or_else(|| {
            let what = format!("{dim} columns of {}, on this machine", dtype.name());
            Error::input(format!("kernel {:?} is not for rows of {what}", kernel.name()))
        })
    }

    pub fn block_rows(&self) -> usize {
        self.0.block_rows()
    }

    pub fn assign(&self, rows: Rows, ahead: &[u8], labels: &mut [u32], scratch: &mut Scratch) {
        assert_eq!(rows.len(), labels.len());
        self.0.assign(rows, ahead, labels, scratch);
    }

    /// The panels of which `assign_known` learns bounds; `None` if the kernel learns none.
    pub fn n_panels(&self) -> Option<usize> {
        self.0.knowing().map(NearestKnown::n_panels)
    }

    /// The way of `centroids`, which this was made from, since they were `before`. Only for a kernel that learns.
    pub fn moves(&self, centroids: &[f32], before: Option<&[f32]>) -> Moves {
        self.0.knowing().expect("a kernel that learns").moves(centroids, before)
    }

    /// `assign` with the same labels, which skips what `known` excludes, and learns. Only for a kernel that learns.
    pub fn assign_known(
        &self,
        rows: Rows,
        moves: &Moves,
        known: KnownBlock,
        labels: &mut [u32],
        scratch: &mut Scratch,
    ) {
        assert_eq!(rows.len(), labels.len());
        self.0.knowing().expect("a kernel that learns").assign(rows, moves, known, labels, scratch);
    }
}

fn boxed<T: Nearest + 'static>(kernel: Option<T>) -> Option<Box<dyn Nearest>> {
    kernel.map(|kernel| Box::new(kernel) as Box<dyn Nearest>)
}

/// `centroids` [K, dim] less `middle`, in float32.
fn shifted(centroids: &[f32], middle: &[f32]) -> Vec<f32> {
    centroids.chunks_exact(middle.len()).flat_map(|c| c.iter().zip(middle).map(|(c, m)| c - m)).collect()
}

/// |c|^2/2 of each centroid, summed in float64.
fn half_norms(centroids: &[f32], dim: usize) -> impl Iterator<Item = f32> + '_ {
    centroids.chunks_exact(dim).map(|c| (c.iter().map(|&c| f64::from(c) * f64::from(c)).sum::<f64>() / 2.0) as f32)
}
