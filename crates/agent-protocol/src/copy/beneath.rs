//! A directory that nothing leads out of: every name is resolved with RESOLVE_BENEATH (openat2(2)).

use super::CopyError;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// The directory.
pub struct Beneath(OwnedFd);

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How often a lookup that a rename somewhere else disturbed is repeated.
const TRIES: u32 = 100;

impl Beneath {
    /// The directory at `path`.
    pub fn open(path: &Path) -> rustix::io::Result<Self> {
        openat(CWD, path, DIRECTORY, Mode::empty()).map(Self)
    }

    /// A directory in it; itself, if the path is empty.
    pub fn directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match openat2(&self.0, path, DIRECTORY, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if tries < TRIES => tries += 1,
                other => return other,
            }
        }
    }

    /// The directory in which `path` lies, made if it is missing, and its last component.
    pub fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), CopyError> {
        let outside = || CopyError::Outside(path.into());
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(outside());
        };
        let refused = |e| match e {
            Errno::XDEV => outside(),
            e => CopyError::file("open", parent)(e.into()),
        };
        match self.directory(parent) {
            Err(Errno::NOENT) => {}
            other => return Ok((other.map_err(refused)?, name)),
        }
        let mut at = self.directory(Path::new("")).map_err(refused)?;
        let mut done = PathBuf::new();
        for part in parent.components() {
            match mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(CopyError::file("make the directory", parent)(e.into())),
            }
            done.push(part);
            at = self.directory(&done).map_err(refused)?;
        }
        Ok((at, name))
    }
}

/// The path without `.`; an error if it is absolute or has `..` in it.
pub fn relative(path: &Path) -> Result<PathBuf, CopyError> {
    let mut relative = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => relative.push(name),
            Component::CurDir => {}
            _ => return Err(CopyError::Outside(path.into())),
        }
    }
    Ok(relative)
}
