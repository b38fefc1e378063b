//! The pages of mapped files: whether they are in memory, and how they get there.

#[cfg(all(target_os = "linux", not(miri)))]
mod linux {
    const PAGE: usize = 4096;

    /// The pages that lie in `bytes` whole or in part: address and length.
    fn pages(bytes: &[u8]) -> (*mut libc::c_void, usize) {
        let start = bytes.as_ptr() as usize & !(PAGE - 1);
        (start as *mut _, bytes.as_ptr() as usize + bytes.len() - start)
    }

    /// Have the pages of `bytes` fetched, as a hint: where the kernel cannot, nothing happens.
    pub fn fetch(bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (start, len) = pages(bytes);
        // SAFETY: only pages of a slice that is alive are named, and the advice changes no contents.
        unsafe { libc::madvise(start, len, libc::MADV_WILLNEED) };
    }

    /// Are the pages of these bytes, as far as a few of them tell, in memory?
    pub fn are_resident(bytes: &[u8]) -> bool {
        const LOOKS: usize = 64;
        let looks = if bytes.is_empty() { 0 } else { LOOKS };
        (0..looks).all(|look| {
            let at = bytes.len() / LOOKS * look;
            let (start, _) = pages(&bytes[at..=at]);
            let mut residency = 0u8;
            // SAFETY: the page is one of a slice that is alive, and one byte is written for one page.
            let answered = unsafe { libc::mincore(start, PAGE, &mut residency) } == 0;
            answered && residency & 1 == 1
        })
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod linux {
    pub fn fetch(_: &[u8]) {}

    pub fn are_resident(_: &[u8]) -> bool {
        true
    }
}

pub use linux::{are_resident, fetch};

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_memory_is_seen_to_be() {
        let x = vec![1u8; 1 << 20];
        assert!(are_resident(&x) && are_resident(&x[5..6]) && are_resident(&[]));
    }
}
