//! A second mapping of guest RAM in which pages that hold decoded code cannot be written.
//!
//! Code that stores through it needs no check of its own: when a page becomes code, [`View::protect`]
//! returns only after every processor has given up its right to write it, so a store either landed before
//! the bytes were read or faults.

use super::ram::PAGE_SIZE;
use rustix::fd::AsFd;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect, munmap};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Mutex, PoisonError};

pub(crate) struct View {
    base: NonNull<u8>,
    len: usize,
    /// A bit for each page that cannot be written.
    protected: Box<[AtomicU64]>,
    /// Held while a page's protection changes.
    changing: Mutex<()>,
    /// The host refused once: nothing can be written through the view any more.
    broken: AtomicBool,
}

// SAFETY: the value owns the mapping until drop and only changes its protection.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Maps `len` bytes of `fd`.
    pub fn new(fd: impl AsFd, len: usize) -> std::io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address the kernel chooses; nothing else refers to it.
        let base = unsafe { mmap(std::ptr::null_mut(), len, access, flags, fd, 0) }?;
        Ok(Self {
            base: NonNull::new(base.cast()).expect("mmap never returns null on success"),
            len,
            protected: (0..len.div_ceil(PAGE_SIZE * 64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            changing: Mutex::new(()),
            broken: AtomicBool::new(false),
        })
    }

    /// Host address of its first byte.
    pub fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    fn is_protected(&self, page: usize) -> bool {
        self.protected[page / 64].load(SeqCst) >> (page % 64) & 1 != 0
    }

    fn set(&self, at: usize, len: usize, access: MprotectFlags) -> bool {
        assert!(at + len <= self.len);
        // SAFETY: a part of the mapping; nobody holds references into it, and who stores to what is
        // protected handles the fault.
        unsafe { mprotect(self.base.as_ptr().add(at).cast(), len, access) }.is_ok()
    }

    /// Takes page number `page`'s write permission, if it is (still) code.
    pub fn protect(&self, page: usize, is_code: impl Fn() -> bool) {
        if self.is_protected(page) || self.broken.load(SeqCst) {
            return;
        }
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_protected(page) || !is_code() {
            return;
        }
        if self.set(page * PAGE_SIZE, PAGE_SIZE, MprotectFlags::READ) {
            self.protected[page / 64].fetch_or(1 << (page % 64), SeqCst);
        } else {
            // Too many mappings for the host. One that covers everything is always possible.
            self.broken.store(true, SeqCst);
            assert!(
                self.set(0, self.len, MprotectFlags::READ),
                "the host cannot protect guest code"
            );
        }
    }

    /// Whether page number `page` can be written, which it becomes if it is not code.
    pub fn make_writable(&self, page: usize, is_code: impl Fn() -> bool) -> bool {
        if self.broken.load(SeqCst) {
            return false;
        }
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if is_code() {
            return false;
        }
        if self.is_protected(page) {
            let access = MprotectFlags::READ | MprotectFlags::WRITE;
            if !self.set(page * PAGE_SIZE, PAGE_SIZE, access) {
                return false;
            }
            self.protected[page / 64].fetch_and(!(1 << (page % 64)), SeqCst);
        }
        !self.broken.load(SeqCst)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing refers to any more.
        unsafe {
            let _ = munmap(self.base.as_ptr().cast(), self.len);
        }
    }
}
