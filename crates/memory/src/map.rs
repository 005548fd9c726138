//! RAM and files in one mapping.
//!
//! ```text
//! RAM  gap  writable file  gap  …  read-only file  gap  …
//! ```
//!
//! A gap is a page that belongs to nobody: an access that begins in one piece and runs over its end does not reach
//! the next. What can be written comes first, so that one comparison tells whether an offset can be.

use crate::ram::PAGE_SIZE;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

/// A file whose bytes are guest memory, for as long as that is there.
///
/// It is mapped, not copied: what other processes store to it guests see at once, but translated or decoded code is
/// not told of it, so code must not be changed from outside. If somebody makes the file shorter, the next access to
/// what is gone ends the process (SIGBUS): who opens it takes the lock that keeps those out who ask.
#[derive(Clone, Debug)]
pub struct MemoryFile {
    /// The file, open for reading, and for writing unless it is read-only.
    pub file: Arc<File>,
    /// Bytes from its beginning on, whole pages.
    pub len: u64,
    /// Stores to it are ignored.
    pub read_only: bool,
}

/// What lies at an offset of a mapping.
pub(crate) struct Piece<'a> {
    pub fd: BorrowedFd<'a>,
    pub offset: usize,
    pub len: usize,
    pub read_only: bool,
    /// Bytes of the host's pages behind it.
    pub page: usize,
}

/// A mapping that is owned.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// What was taken of the address space: `base` is aligned in it.
    taken: (NonNull<u8>, usize),
}

// SAFETY: the value owns the mapping until drop and does nothing with it meanwhile.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `first` (at offset 0), and `others` behind it in `len` bytes. What is between can be read and written.
    pub fn new(len: usize, first: Piece<'_>, others: &[Piece<'_>]) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        let room = len + first.page - PAGE_SIZE;
        let empty = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address the kernel chooses; nothing else refers to it.
        let taken = unsafe { mmap_anonymous(std::ptr::null_mut(), room, access, empty) }?;
        let taken = NonNull::new(taken.cast::<u8>()).expect("mmap never returns null on success");
        let aligned = taken
            .as_ptr()
            .wrapping_add(taken.as_ptr().align_offset(first.page));
        let map = Self {
            base: NonNull::new(aligned).expect("inside what was taken"),
            len,
            taken: (taken, room),
        };
        for piece in std::iter::once(&first).chain(others) {
            let behind = piece.offset == 0 || first.len <= piece.offset;
            assert!(behind && piece.offset + piece.len <= len);
            let access = match piece.read_only {
                true => ProtFlags::READ,
                false => access,
            };
            // SAFETY: replaces a part of the mapping just made, which nothing refers to yet; the assertion keeps it
            // inside.
            unsafe {
                mmap(
                    map.at(piece.offset),
                    piece.len,
                    access,
                    flags | MapFlags::FIXED,
                    piece.fd,
                    0,
                )
            }?;
        }
        Ok(map)
    }

    fn at(&self, offset: usize) -> *mut std::ffi::c_void {
        self.base.as_ptr().wrapping_add(offset).cast()
    }

    /// Its first byte.
    #[inline(always)]
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (start, len) = self.taken;
        // SAFETY: the mapping made in `new`, which nothing refers to once its owner is gone.
        let _ = unsafe { munmap(start.as_ptr().cast(), len) };
    }
}
