//! A directory that guests are given.

use crate::host;
use crate::nodes::Identity;
use crate::owner::{Ids, Owners};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What can be chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShareOptions {
    /// The guest may not change anything.
    pub read_only: bool,
    /// Whom files of the user that runs this belong to in the guest, unless the guest gave them to somebody else.
    /// Without it: to root, if the user is not root itself; root keeps all owners as they are.
    pub owner: Option<Ids>,
}

/// Why a directory cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// There is none.
    #[error("{path} does not exist; make it: mkdir {path}", path = .0.display())]
    Missing(PathBuf),
    /// It is something else.
    #[error("{path} is not a directory; share the directory that it is in", path = .0.display())]
    NotADirectory(PathBuf),
    /// The host refused.
    #[error("cannot open the directory {path}: {cause}; see who may: ls -ld {path}", path = .path.display())]
    Refused {
        /// The directory.
        path: PathBuf,
        /// What it said.
        cause: std::io::Error,
    },
    /// There is no /proc.
    #[error(
        "cannot use /proc/self/fd ({0}), which shared directories need; mount it: mount -t proc proc /proc"
    )]
    Proc(std::io::Error),
}

/// A directory of the host that is shared with guests.
pub struct Share {
    path: PathBuf,
    pub(crate) root: Arc<OwnedFd>,
    pub(crate) identity: Identity,
    pub(crate) read_only: bool,
    pub(crate) owners: Owners,
    /// Permissions that this process's files never get by themselves (umask(2)).
    pub(crate) umask: u32,
}

impl Share {
    /// Opens a directory.
    pub fn open(path: impl Into<PathBuf>, options: &ShareOptions) -> Result<Arc<Self>, ShareError> {
        let path = path.into();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&path, flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT => ShareError::Missing(path.clone()),
            Errno::NOTDIR => ShareError::NotADirectory(path.clone()),
            e => refused(&path, e),
        })?;
        // What every later access needs.
        host::reopen(&root, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| match e {
            Errno::NOENT => ShareError::Proc(e.into()),
            e => refused(&path, e),
        })?;
        let stat = host::stat(&root).map_err(|e| refused(&path, e))?;
        Ok(Arc::new(Self {
            path,
            root: Arc::new(root),
            identity: Identity::of(&stat),
            read_only: options.read_only,
            owners: Owners::new(options.owner),
            umask: umask().map_err(ShareError::Proc)?,
        }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether guests may not change anything.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }
}

fn refused(path: &Path, e: Errno) -> ShareError {
    ShareError::Refused {
        path: path.into(),
        cause: e.into(),
    }
}

/// This process's umask (proc(5), /proc/pid/status), which no system call only reads.
fn umask() -> std::io::Result<u32> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("Umask:"));
    // Kernels before 4.7 do not say; the usual one then.
    Ok(line
        .and_then(|l| u32::from_str_radix(l.trim(), 8).ok())
        .unwrap_or(0o022))
}
