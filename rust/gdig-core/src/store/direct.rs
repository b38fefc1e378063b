//! Reads from the disk into memory of the reader, past the page cache (O_DIRECT).

use std::ops::Range;
use std::path::Path;

use super::sound::Identity;

/// Places in the file, lengths and memory are multiples of this number. A disk that asks for more refuses the read.
pub const BLOCK: usize = 4096;

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

// SAFETY: bytes alone, as many as the alignment, so without padding.
unsafe impl bytemuck::Zeroable for Block {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Block {}

/// Memory for direct reads.
#[derive(Default)]
pub struct Blocks(Vec<Block>);

impl Blocks {
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    #[cfg(target_os = "linux")]
    fn of_length(&mut self, len: usize) -> &mut [u8] {
        let n = len.div_ceil(BLOCK);
        self.0.resize(n.max(self.0.len()), Block([0; BLOCK]));
        bytemuck::cast_slice_mut(&mut self.0[..n])
    }
}

/// A file that is read directly.
#[cfg(target_os = "linux")]
pub struct DirectFile(std::fs::File);

#[cfg(target_os = "linux")]
impl DirectFile {
    /// `None` if the file system refuses, or if the path has another file than the one of `identity`.
    pub fn open(path: &Path, identity: &Identity) -> Option<DirectFile> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).ok()?;
        (Identity::of(&file).ok()? == *identity).then_some(DirectFile(file))
    }

    /// Read bytes `span` of the file. The answer is their place in `blocks`. `None` if the read fails in any way: whoever
    /// reads the file in another way gets the error.
    pub fn read(&self, span: Range<usize>, blocks: &mut Blocks) -> Option<Range<usize>> {
        use std::os::unix::fs::FileExt;
        let first = span.start / BLOCK * BLOCK;
        let bytes = blocks.of_length(span.end - first);
        let mut done = 0;
        while done < span.end - first {
            match self.0.read_at(&mut bytes[done..], (first + done) as u64) {
                Ok(0) => return None,
                Ok(n) => done += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Some(span.start - first..span.end - first)
    }
}

/// On other systems there is none.
#[cfg(not(target_os = "linux"))]
pub enum DirectFile {}

#[cfg(not(target_os = "linux"))]
impl DirectFile {
    pub fn open(_path: &Path, _identity: &Identity) -> Option<DirectFile> {
        None
    }

    pub fn read(&self, _span: Range<usize>, _blocks: &mut Blocks) -> Option<Range<usize>> {
        match *self {}
    }
}
