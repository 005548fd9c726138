//! A second mapping of guest RAM in which pages that hold decoded code cannot be written.
//!
//! Code that stores through it needs no check of its own: when a page becomes code, [`View::protect`]
//! returns only after every processor has given up its right to write it, so a store either landed before
//! the bytes were read or faults.

use crate::map::Mapping;
use crate::ram::PAGE_SIZE;
use rustix::mm::{MprotectFlags, mprotect};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Mutex, PoisonError};

pub(crate) struct View {
    map: Mapping,
    /// A bit for each page that cannot be written.
    protected: Box<[AtomicU64]>,
    /// Held while a page's protection changes.
    changing: Mutex<()>,
    /// The host refused once: nothing can be written through the view any more.
    broken: AtomicBool,
}

impl View {
    /// A view by way of a mapping of its own.
    pub fn new(map: Mapping) -> Self {
        Self {
            protected: (0..map.len().div_ceil(PAGE_SIZE * 64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            map,
            changing: Mutex::new(()),
            broken: AtomicBool::new(false),
        }
    }

    /// Host address of its first byte.
    pub fn address(&self) -> usize {
        self.map.base() as usize
    }

    fn is_protected(&self, page: usize) -> bool {
        self.protected[page / 64].load(SeqCst) >> (page % 64) & 1 != 0
    }

    fn set(&self, at: usize, len: usize, access: MprotectFlags) -> bool {
        assert!(at + len <= self.map.len());
        // SAFETY: a part of the mapping; nobody holds references into it, and who stores to what is
        // protected handles the fault.
        unsafe { mprotect(self.map.base().add(at).cast(), len, access) }.is_ok()
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
                self.set(0, self.map.len(), MprotectFlags::READ),
                "the host cannot protect guest code"
            );
        }
    }

    /// Whether page number `page` can be written, which it becomes if it is not code. Not to be asked of a page of a
    /// read-only file.
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
