//! How much a guest may have of the host.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Bytes of guest RAM that one of its inodes takes at least, with the name that leads to it.
const GUEST_INODE: u64 = 1 << 10;
/// The most descriptors that a session keeps only to be fast.
const MOST_CACHED: usize = 1 << 14;

/// Bounds of one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Nodes that the guest knows; more are ENFILE.
    pub nodes: usize,
    /// Nodes whose descriptor is kept. Others are opened again by name when they are needed.
    pub descriptors: usize,
    /// Files and directories that the guest has open; more are ENFILE.
    pub handles: usize,
}

impl Limits {
    /// Bounds for a guest with so much RAM: an honest guest never knows more nodes than fit there. Descriptors are
    /// bounded by what the process may have (RLIMIT_NOFILE): an eighth of that is for nodes, half of it for handles.
    pub fn for_guest(ram: u64) -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        Self {
            nodes: usize::try_from(ram / GUEST_INODE)
                .unwrap_or(usize::MAX)
                .max(1 << 12),
            descriptors: (files / 8).clamp(16, MOST_CACHED),
            handles: (files / 2).clamp(16, 1 << 16),
        }
    }

    /// Raises the number of descriptors that this process may have as far as it may itself. A guest with a shared
    /// directory has many files open, and the usual 1024 is meant for programs that use select(2).
    pub fn raise_descriptors() {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current != maximum {
            let wanted = Rlimit {
                current: maximum,
                maximum,
            };
            if let Err(e) = setrlimit(Resource::Nofile, wanted) {
                tracing::warn!("the limit of open files stays at {current:?}: {e}");
            }
        }
    }
}
