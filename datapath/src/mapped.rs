//! Memory that comes from the kernel as pages: words that another party may share.
//!
//! All `unsafe` code of this crate is here.

use std::{
    ffi::c_void,
    io,
    num::NonZeroUsize,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd},
    ptr::NonNull,
    slice,
    sync::atomic::AtomicU64,
};

use nix::sys::{
    mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap},
    stat::{SFlag, fstat},
};

/// A memory mapping of 64-bit words, unmapped when dropped.
#[derive(Debug)]
pub struct Words {
    start: NonNull<c_void>,
    len: usize,
}

impl Words {
    /// `len` words of this process, all 0. A page of them costs memory once it is written to.
    ///
    /// # Errors
    /// `InvalidInput` where `len` is 0 or has no address; else what the kernel says, `ENOMEM` mostly.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses the address, so that nothing mapped before is touched.
        let start = unsafe { mmap_anonymous(None, octets(len)?, access(), MapFlags::MAP_PRIVATE) }?;
        Ok(Self { start, len })
    }

    /// The first `len` words behind a descriptor (a map of the kernel's, a file in memory), shared with
    /// all who map them. They must stay: words that are cut off a file end the process when read.
    ///
    /// # Errors
    /// `InvalidInput` where `len` is 0 or has no address, `UnexpectedEof` where a file is shorter; else
    /// what the kernel says: `EACCES`, where the descriptor is not open for both reading and writing,
    /// `EINVAL`, where a map is shorter.
    pub fn shared(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let octets = octets(len)?;
        if is_shorter_file(fd, octets)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: the kernel chooses the address, so that nothing mapped before is touched. Whatever
        // others do to the words, all are valid, and they are only accessed as atomics.
        let start = unsafe { mmap(None, octets, access(), MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { start, len })
    }
}

/// How many octets so many words have.
fn octets(words: usize) -> io::Result<NonZeroUsize> {
    let octets = words.checked_mul(size_of::<AtomicU64>()).and_then(NonZeroUsize::new);
    // A slice has no more (`slice::from_raw_parts`).
    octets
        .filter(|octets| isize::try_from(octets.get()).is_ok())
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn access() -> ProtFlags {
    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
}

/// Whether a descriptor is of a file that ends too soon: the kernel maps it, and kills who reads. It
/// checks all else by itself.
fn is_shorter_file(fd: impl AsFd, octets: NonZeroUsize) -> io::Result<bool> {
    let stat = fstat(fd)?;
    let is_file = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
    Ok(is_file && usize::try_from(stat.st_size).is_ok_and(|size| size < octets.get()))
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `len` words, is aligned to a page, readable and writable, and lives
        // as long as `self`. Any bits are a valid `AtomicU64`.
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.len) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and what was borrowed from it is gone.
        let unmapped = unsafe { munmap(self.start, self.len * size_of::<AtomicU64>()) };
        debug_assert!(unmapped.is_ok(), "a mapping is its owner's to unmap");
    }
}

// SAFETY: a mapping belongs to the whole process, not to the thread that made it.
unsafe impl Send for Words {}

// SAFETY: the words are only accessed as atomics.
unsafe impl Sync for Words {}

#[cfg(test)]
mod tests {
    use std::{fs::File, sync::atomic::Ordering::Relaxed};

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    fn memory(octets: u64) -> File {
        let file = File::from(memfd_create("words", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(octets).unwrap();
        file
    }

    #[test]
    fn words_begin_as_zeros_and_hold_what_is_stored() {
        let words = Words::zeroed(1000).unwrap();
        assert_eq!(words.len(), 1000);
        assert!(words.iter().all(|word| word.load(Relaxed) == 0));
        words[999].store(u64::MAX, Relaxed);
        assert_eq!(words[999].load(Relaxed), u64::MAX);
    }

    #[test]
    fn two_mappings_of_one_memory_are_one() {
        let file = memory(4096);
        let [one, other] = [(); 2].map(|()| Words::shared(file.as_fd(), 512).unwrap());
        one[511].store(7, Relaxed);
        assert_eq!(other[511].load(Relaxed), 7);
        drop(one);
        assert_eq!(other[511].load(Relaxed), 7, "still mapped");
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let kind = |words: io::Result<Words>| words.unwrap_err().kind();
        let file = memory(4096);
        assert_eq!(kind(Words::zeroed(0)), io::ErrorKind::InvalidInput);
        assert_eq!(kind(Words::zeroed(usize::MAX / 8)), io::ErrorKind::InvalidInput);
        assert_eq!(kind(Words::shared(file.as_fd(), 513)), io::ErrorKind::UnexpectedEof);
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(Words::shared(reader.as_fd(), 1).is_err());
    }
}
