//! Files that the guest knows.
//!
//! A node remembers by which name in which directory it was found, so that its descriptor can be closed when there are
//! too many, and opened again when it is needed. What is found under the name then must be the same file; if it is
//! not, the node is stale (ESTALE), and guests look the name up again.

mod cache;
mod table;

use crate::abi::ROOT;
use crate::limits::Limits;
use crate::saved::SavedNode;
use crate::{Result, host};
use rustix::fs::{FileType, Statx, StatxFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use table::{Node, Table, Way};

/// So many seconds after a change, another one has another time, even where times are in two seconds.
const SETTLED: i64 = 2;

/// What tells files of the host apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Inode {
    device: (u32, u32),
    mount: u64,
    number: u64,
}

/// A file's number, and when it was made: numbers are used again.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub inode: Inode,
    pub kind: FileType,
    born: Option<(i64, u32)>,
}

impl Identity {
    pub fn of(stat: &Statx) -> Self {
        let has = |what: StatxFlags| stat.stx_mask & what.bits() != 0;
        Self {
            inode: Inode {
                device: (stat.stx_dev_major, stat.stx_dev_minor),
                mount: if has(StatxFlags::MNT_ID) {
                    stat.stx_mnt_id
                } else {
                    0
                },
                number: stat.stx_ino,
            },
            kind: host::kind(stat),
            born: has(StatxFlags::BTIME).then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
        }
    }

    /// Whether both are of one file, as far as can be told.
    fn is(&self, other: &Self) -> bool {
        self.inode == other.inode
            && self.kind == other.kind
            && (self.born.is_none() || other.born.is_none() || self.born == other.born)
    }
}

/// What changes whenever a file's content does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

impl State {
    /// The state at a time, in seconds. `None` for a file that has changed just before: times are too coarse to tell it
    /// from one that changes again.
    pub fn of(stat: &Statx, now: i64) -> Option<Self> {
        let changed = &stat.stx_ctime;
        let settled = changed.tv_sec.saturating_add(SETTLED) < now;
        settled.then_some(Self {
            size: stat.stx_size,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            changed: (changed.tv_sec, changed.tv_nsec),
        })
    }
}

/// All nodes of a session.
pub struct Nodes {
    table: Mutex<Table>,
    /// The device that the root is on.
    device: (u32, u32),
}

impl Nodes {
    /// Only the root.
    pub fn new(root: &Arc<OwnedFd>, identity: Identity, limits: &Limits) -> Self {
        Self {
            device: identity.inode.device,
            table: Mutex::new(Table::new(Node::root(root, identity), limits)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The number that the guest sees as the file's: that of the host, but different for files on another file system
    /// with the same number, since the guest sees one file system.
    pub fn number(&self, stat: &Statx) -> u64 {
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        if device == self.device {
            return stat.stx_ino;
        }
        let mark = (u64::from(device.0) << 8 ^ u64::from(device.1)) & 0x7fff;
        stat.stx_ino ^ (mark | 0x8000) << 48
    }

    /// A descriptor (`O_PATH`) of a node.
    pub fn fd(&self, id: u64) -> Result<Arc<OwnedFd>> {
        let (from, names, identity) = match self.lock().way(id)? {
            Way::Open(fd) => return Ok(fd),
            Way::Names {
                from,
                names,
                identity,
            } => (from, names, identity),
        };
        let found = self.roomy(|| walk(&from, &names)).map_err(|e| match e {
            Errno::NOENT | Errno::NOTDIR => Errno::STALE,
            e => e,
        })?;
        let now = Identity::of(&host::stat(&found)?);
        let found = Arc::new(found);
        let mut table = self.lock();
        match identity {
            Some(identity) if !identity.is(&now) => return Err(Errno::STALE),
            Some(_) => {}
            None => table.identify(id, now)?,
        }
        table.keep(id, &found);
        close(table);
        Ok(found)
    }

    /// Opens something; if there are too many open files, once more with fewer of them.
    pub fn roomy<T>(&self, open: impl Fn() -> Result<T>) -> Result<T> {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) => {
                let mut table = self.lock();
                let few = table.cache.len() / 2;
                let dropped = table.evict(few);
                drop(table);
                drop(dropped);
                open()
            }
            result => result,
        }
    }

    /// A file is opened, and is in this state: whether it was in the same when it was opened before, so that what the
    /// guest keeps of its content is still right.
    pub fn is_unchanged(&self, id: u64, state: Option<State>) -> bool {
        let mut table = self.lock();
        let before = table
            .nodes
            .get_mut(&id)
            .map(|n| std::mem::replace(&mut n.opened, state));
        state.is_some() && before == Some(state)
    }

    /// What kind of file a node is.
    pub fn kind(&self, id: u64) -> Result<FileType> {
        let table = self.lock();
        let node = table.nodes.get(&id).ok_or(Errno::STALE)?;
        Ok(node.identity.ok_or(Errno::STALE)?.kind)
    }

    /// The guest has found a file: its node, which it now knows once more.
    pub fn enter(&self, parent: u64, name: &CStr, fd: OwnedFd, stat: &Statx) -> Result<u64> {
        let identity = Identity::of(stat);
        let fd = Arc::new(fd);
        let mut table = self.lock();
        let id = table.enter(parent, name, identity)?;
        table.keep(id, &fd);
        close(table);
        Ok(id)
    }

    /// The guest knows a node so many times less.
    pub fn forget(&self, id: u64, times: u64) {
        let mut table = self.lock();
        let gone = table.forget(id, times);
        drop(table);
        drop(gone);
    }

    /// A name is gone from a directory. If nothing else leads to the file, its descriptor has to.
    pub fn unnamed(&self, parent: u64, name: &CStr, was: OwnedFd, stat: &Statx) {
        let mut table = self.lock();
        let Some(id) = table.find(&Identity::of(stat)) else {
            return;
        };
        let fd = Arc::new(was);
        if table.is_at(id, parent, name) {
            let gone = table.place(id, None);
            table.keep(id, &fd);
            close(table);
            drop(gone);
        }
    }

    /// A file has another name now.
    pub fn renamed(&self, parent: u64, name: &CStr, stat: &Statx) {
        let mut table = self.lock();
        let mut gone = None;
        if let Some(id) = table.find(&Identity::of(stat)) {
            gone = Some(table.place(id, Some((parent, name))));
        }
        drop(table);
        drop(gone);
    }

    /// Forgets all but the root.
    pub fn clear(&self) {
        let gone = self.lock().clear();
        drop(gone);
    }

    /// All nodes but the root, and the last number.
    pub fn list(&self) -> (Vec<SavedNode>, u64) {
        self.lock().list()
    }

    /// Puts nodes back that [`Nodes::list`] had, and looks which files they are now.
    pub fn put_back(&self, list: &[SavedNode], last: u64) -> Result<()> {
        self.clear();
        self.lock().put_back(list, last)?;
        let mut within: HashMap<u64, Vec<u64>> = HashMap::new();
        for node in list {
            if let Some((parent, _)) = &node.place {
                within.entry(*parent).or_default().push(node.id);
            }
        }
        let mut found = vec![ROOT];
        while let Some(directory) = found.pop() {
            for id in within.remove(&directory).unwrap_or_default() {
                match self.fd(id) {
                    Ok(_) => found.push(id),
                    // It stays without an identity, and so stale, with all that is in it.
                    Err(e) => tracing::debug!(node = id, "gone after a restore: {e}"),
                }
            }
        }
        Ok(())
    }
}

/// Closes descriptors that are too many, with the table unlocked.
fn close(mut table: MutexGuard<'_, Table>) {
    let most = table.most_open;
    let dropped = table.evict(most);
    drop(table);
    drop(dropped);
}

fn walk(from: &OwnedFd, names: &[CString]) -> Result<OwnedFd> {
    let mut names = names.iter();
    let first = names.next().ok_or(Errno::STALE)?;
    let mut at = host::child(from, first)?;
    for name in names {
        at = host::child(&at, name)?;
    }
    Ok(at)
}
