//! The host's file system by descriptors.

use crate::Result;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// What every descriptor here is opened with.
const ALWAYS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);

/// A name that leads to whatever the descriptor does, without following it: for calls that take no `O_PATH`
/// descriptor.
pub fn path_of(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// What `name`, which is one component, means in a directory. Opens nothing, follows nothing.
pub fn child(directory: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    openat(directory, name, OFlags::PATH | ALWAYS, Mode::empty())
}

/// Opens the regular file or directory that an `O_PATH` descriptor stands for.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    // The last component is a link to be followed, to an object and not to a name.
    openat(
        rustix::fs::CWD,
        path_of(fd),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Makes a regular file that is not there yet.
pub fn create(directory: impl AsFd, name: &CStr, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let flags = flags | OFlags::CREATE | OFlags::EXCL | ALWAYS;
    openat(directory, name, flags, mode)
}

/// The attributes of what a descriptor stands for.
pub fn stat(fd: impl AsFd) -> Result<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    statx(fd, c"", flags, wanted)
}

/// Which kind of file.
pub fn kind(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// An error of std's as a number.
pub fn errno(e: &std::io::Error) -> Errno {
    match e.raw_os_error() {
        Some(raw) => Errno::from_raw_os_error(raw),
        None if e.kind() == std::io::ErrorKind::InvalidInput => Errno::INVAL,
        None => Errno::IO,
    }
}
