//! AMX tiles: detection, configuration and the two inner products, in assembly as long as Rust's intrinsics for them
//! are unstable.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// One row of a tile: 32 bfloat16, 64 int8 or 16 sums.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [u32; 16]);

impl Line {
    pub const ZERO: Line = Line([0; 16]);
    pub const BYTES: usize = 64;
}

/// Rows, and as many centroids, whose products are taken together: two tiles by two.
pub const SIDE: usize = 32;
/// Lines of a step: 64 bytes of each of `SIDE` rows.
pub const STEP_LINES: usize = SIDE;
/// Sums of `SIDE` rows and `SIDE` centroids, [SIDE][2] lines of 16.
pub type Sums = [Line; 2 * SIDE];

pub fn has_bf16() -> bool {
    // The conversion of rows to bfloat16 needs the last one.
    detected().0 && super::has_avx512() && is_x86_feature_detected!("avx512bf16")
}

pub fn has_int8() -> bool {
    detected().1 && super::has_avx512()
}

/// Has the processor AMX for bfloat16 and for int8, and may this process use it?
fn detected() -> (bool, bool) {
    static DETECTED: OnceLock<(bool, bool)> = OnceLock::new();
    *DETECTED.get_or_init(|| {
        // Miri has no tiles, and other systems grant them in other ways.
        if cfg!(miri) || !cfg!(target_os = "linux") || __cpuid(0).eax < 7 {
            return (false, false);
        }
        let edx = __cpuid_count(7, 0).edx;
        let (bf16, tile, int8) = (edx & 1 << 22 != 0, edx & 1 << 24 != 0, edx & 1 << 25 != 0);
        let permitted = tile && permitted();
        (permitted && bf16, permitted && int8)
    })
}

/// Ask Linux for the 8 KiB of tile data in the state of every thread: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA). It
/// says no where it does not know AMX, where a filter forbids the call, and where a thread's signal stack is too small.
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XTILEDATA: u64 = 18;
    let outcome: i64;
    // SAFETY: the call takes two numbers and touches no memory of ours; `syscall` overwrites rcx and r11.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => outcome, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XTILEDATA,
            out("rcx") _, out("r11") _, options(nostack));
    }
    outcome == 0
}

/// This thread's tiles, configured as eight of 16 rows by 64 bytes while this lives, then released: a thread with live
/// tiles costs 8 KiB more at each context switch.
pub struct Tiles {
    /// Of one thread: neither Send nor Sync.
    thread: PhantomData<*const ()>,
}

impl Tiles {
    /// # Safety
    /// `has_bf16` or `has_int8` must have said yes, and no other `Tiles` may live on this thread.
    pub unsafe fn new() -> Tiles {
        let mut config = [Line::ZERO; 1];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut config[0].0);
        bytes[0] = 1; // the palette
        for tile in 0..8 {
            bytes[16 + 2 * tile] = Line::BYTES as u8;
            bytes[48 + tile] = 16;
        }
        asm!("ldtilecfg [{config}]", config = in(reg) config.as_ptr(), options(nostack, readonly));
        Tiles { thread: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: AMX is there, or this would not have been made.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// One step of inner products: load two tiles of rows and two of centroids, and multiply every one with every other.
/// Four loads for four products is the best that eight tiles allow.
macro_rules! step {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Both must point to `STEP_LINES` lines, and the processor must have the instruction.
        #[inline(always)]
        pub unsafe fn $name(&self, rows: *const Line, centroids: *const Line) {
            asm!(
                "tileloadd tmm4, [{a} + {line}]",
                "tileloadd tmm6, [{b} + {line}]",
                concat!($instruction, " tmm0, tmm4, tmm6"),
                "tileloadd tmm7, [{b} + {line} + 1024]",
                concat!($instruction, " tmm1, tmm4, tmm7"),
                "tileloadd tmm5, [{a} + {line} + 1024]",
                concat!($instruction, " tmm2, tmm5, tmm6"),
                concat!($instruction, " tmm3, tmm5, tmm7"),
                a = in(reg) rows,
                b = in(reg) centroids,
                line = in(reg) Line::BYTES,
                options(nostack, readonly, preserves_flags),
            );
        }
    };
}

/// Sums stay in tiles 0 to 3 from `zero` over the steps to `store`, across blocks of assembly. They survive because
/// nothing else uses tiles: the compiler does not where their target features are off, as they are in this crate, and
/// no foreign code is called in between.
impl Tiles {
    step!(
        /// bfloat16: two neighbouring columns at a time, in float32, subnormals taken as zero.
        step_bf16, "tdpbf16ps"
    );
    step!(
        /// int8, exact in int32.
        step_int8, "tdpbssd"
    );

    /// Let all sums be zero.
    #[inline(always)]
    pub fn zero(&self) {
        // SAFETY: AMX is there and the tiles are configured, or this would not have been made.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem, preserves_flags)
            );
        }
    }

    #[inline(always)]
    pub fn store(&self, sums: &mut Sums) {
        // SAFETY: as above, and four tiles of 16 rows by 64 bytes fill the sums.
        unsafe {
            asm!(
                "tilestored [{sums} + {two_lines}], tmm0",
                "tilestored [{sums} + {two_lines} + 64], tmm1",
                "tilestored [{sums} + {two_lines} + 2048], tmm2",
                "tilestored [{sums} + {two_lines} + 2112], tmm3",
                sums = in(reg) sums.as_mut_ptr(),
                two_lines = in(reg) 2 * Line::BYTES,
                options(nostack, preserves_flags),
            );
        }
    }
}
