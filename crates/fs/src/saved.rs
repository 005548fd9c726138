//! A session as it is saved.
//!
//! Files are saved by their names, not by what the host tells them apart by, so a session can go on where the same
//! files lie under another directory, or on another host. What is not there any more is stale (ESTALE).

use crate::abi::ROOT;
use crate::server::Server;
use crate::{Result, host};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::SeqCst;

/// The highest number that a session can have come to.
pub(crate) const MOST_NUMBERS: u64 = u64::MAX / 2;

/// What a guest knows and has open.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SavedSession {
    pub(crate) begun: bool,
    pub(crate) nodes: Vec<SavedNode>,
    pub(crate) last_node: u64,
    pub(crate) handles: Vec<SavedHandle>,
    pub(crate) last_handle: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SavedNode {
    pub id: u64,
    /// The node it is in, and its name there.
    pub place: Option<(u64, CString)>,
    /// How often the guest knows it.
    pub lookups: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SavedHandle {
    pub number: u64,
    /// Zero if it is stale.
    pub node: u64,
    pub flags: u32,
    pub directory: bool,
}

impl Server {
    /// All of it. No request may be under way.
    pub fn save(&self) -> SavedSession {
        let (nodes, last_node) = self.nodes.list();
        let (handles, last_handle) = self.handles.list();
        let mut saved = SavedSession {
            begun: self.begun.load(SeqCst),
            nodes,
            last_node,
            handles,
            last_handle,
        };
        // The same session is the same bytes.
        saved.nodes.sort_by_key(|n| n.id);
        saved.handles.sort_by_key(|h| h.number);
        saved
    }

    /// Goes on with a saved session in place of the present one. Refused is only what no session can be.
    pub fn restore(&self, saved: &SavedSession) -> std::io::Result<()> {
        self.reset();
        let restored = self.put_back(saved);
        if restored.is_err() {
            self.reset();
        }
        Ok(restored?)
    }

    fn put_back(&self, saved: &SavedSession) -> Result<()> {
        let proper = |name: &CString| {
            let bytes = name.as_bytes();
            !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/')
        };
        let mut places = saved.nodes.iter().filter_map(|n| n.place.as_ref());
        let mut numbers = saved.handles.iter().map(|h| h.number);
        let last = saved.last_handle;
        if !places.all(|(_, name)| proper(name))
            || saved.handles.len() > self.handles.limit()
            || last > MOST_NUMBERS
            || numbers.any(|n| n > last)
        {
            return Err(Errno::INVAL);
        }
        self.nodes.put_back(&saved.nodes, saved.last_node.max(ROOT))?;
        for handle in &saved.handles {
            let opened = self.open_again(handle);
            if let Err(e) = &opened {
                tracing::debug!(handle = handle.number, "not open after a restore: {e}");
            }
            let opened = opened
                .ok()
                .map(|fd| (handle.node, fd, handle.flags, handle.directory));
            self.handles.put_back(handle.number, opened);
        }
        self.handles.go_on_after(saved.last_handle);
        self.begun.store(saved.begun, SeqCst);
        Ok(())
    }

    fn open_again(&self, handle: &SavedHandle) -> Result<OwnedFd> {
        let flags = match (handle.directory, self.nodes.kind(handle.node)?) {
            (true, FileType::Directory) => OFlags::RDONLY | OFlags::DIRECTORY,
            (false, FileType::RegularFile) => self.open_flags(handle.flags)? - OFlags::TRUNC,
            _ => return Err(Errno::STALE),
        };
        host::reopen(&*self.nodes.fd(handle.node)?, flags)
    }
}
