//! What a guest has open.

use crate::Result;
use crate::saved::SavedHandle;
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

/// An open file or directory.
pub struct Handle {
    /// The node it was opened by.
    pub node: u64,
    /// The file.
    pub fd: OwnedFd,
    /// What it was opened with.
    pub flags: u32,
    /// Whether it is a directory.
    pub directory: bool,
    /// Held while a directory is read: its position is the descriptor's.
    pub reading: Mutex<()>,
}

#[derive(Default)]
struct Table {
    /// What could not be opened again after a restore is `None`.
    open: HashMap<u64, Option<Arc<Handle>>>,
    last: u64,
}

/// All handles of a session.
pub struct Handles {
    table: Mutex<Table>,
    limit: usize,
}

impl Handles {
    pub fn new(limit: usize) -> Self {
        Self {
            table: Mutex::default(),
            limit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds one; its number.
    pub fn add(&self, node: u64, fd: OwnedFd, flags: u32, directory: bool) -> Result<u64> {
        let handle = handle(node, fd, flags, directory);
        let mut table = self.lock();
        if table.open.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        table.last += 1;
        let number = table.last;
        table.open.insert(number, Some(handle));
        Ok(number)
    }

    fn get(&self, number: u64) -> Result<Arc<Handle>> {
        match self.lock().open.get(&number) {
            Some(Some(handle)) => Ok(handle.clone()),
            Some(None) => Err(Errno::STALE),
            None => Err(Errno::BADF),
        }
    }

    /// An open regular file.
    pub fn file(&self, number: u64) -> Result<Arc<Handle>> {
        let handle = self.get(number)?;
        (!handle.directory).then_some(handle).ok_or(Errno::ISDIR)
    }

    /// An open directory.
    pub fn directory(&self, number: u64) -> Result<Arc<Handle>> {
        let handle = self.get(number)?;
        handle.directory.then_some(handle).ok_or(Errno::NOTDIR)
    }

    /// Closes one.
    pub fn remove(&self, number: u64) -> Result<()> {
        // Not closed with the table locked: that may take the host's time.
        let removed = self.lock().open.remove(&number);
        removed.map(drop).ok_or(Errno::BADF)
    }

    /// Closes all.
    pub fn clear(&self) {
        let all = std::mem::take(&mut self.lock().open);
        drop(all);
    }

    /// All of them, and the last number.
    pub fn list(&self) -> (Vec<SavedHandle>, u64) {
        let table = self.lock();
        let open = table.open.iter();
        let list = open.map(|(number, handle)| SavedHandle {
            number: *number,
            node: handle.as_ref().map_or(0, |h| h.node),
            flags: handle.as_ref().map_or(0, |h| h.flags),
            directory: handle.as_ref().is_some_and(|h| h.directory),
        });
        (list.collect(), table.last)
    }

    /// The most that there can be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Gives out only numbers after this one.
    pub fn go_on_after(&self, number: u64) {
        let mut table = self.lock();
        table.last = table.last.max(number);
    }

    /// Puts one back under its number; without a file, it is stale.
    pub fn put_back(&self, number: u64, opened: Option<(u64, OwnedFd, u32, bool)>) {
        let opened = opened.map(|(node, fd, flags, directory)| handle(node, fd, flags, directory));
        self.lock().open.insert(number, opened);
    }
}

fn handle(node: u64, fd: OwnedFd, flags: u32, directory: bool) -> Arc<Handle> {
    Arc::new(Handle {
        node,
        fd,
        flags,
        directory,
        reading: Mutex::default(),
    })
}
