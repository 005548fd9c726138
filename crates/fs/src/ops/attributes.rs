//! Attributes of files and of the file system.

use crate::abi::{GETATTR_FH, fattr};
use crate::ops::open::{kill_set_ids, without_set_ids};
use crate::owner::Ids;
use crate::server::{Call, Server};
use crate::wire::{Output, Reply};
use crate::{Result, host};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, chmodat, fstatvfs,
    ftruncate, readlinkat, utimensat,
};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// The arguments of SETATTR, `struct fuse_setattr_in`.
struct Change {
    valid: u32,
    handle: u64,
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    access: Timespec,
    modification: Timespec,
}

impl Change {
    fn read(call: &mut Call<'_>) -> Result<Self> {
        let i = &mut call.input;
        let (valid, _) = (i.u32()?, i.u32()?);
        let (handle, size, _lock_owner) = (i.u64()?, i.u64()?, i.u64()?);
        let (access, modification, _change) = (i.u64()?, i.u64()?, i.u64()?);
        let (access_ns, modification_ns, _change_ns) = (i.u32()?, i.u32()?, i.u32()?);
        let (mode, _, uid, gid) = (i.u32()?, i.u32()?, i.u32()?, i.u32()?);
        let time = |set: u32, now: u32, seconds: u64, nanoseconds: u32| Timespec {
            tv_sec: seconds as i64,
            tv_nsec: match () {
                _ if valid & now != 0 => UTIME_NOW,
                _ if valid & set != 0 => nanoseconds.into(),
                _ => UTIME_OMIT,
            },
        };
        Ok(Self {
            valid,
            handle,
            size,
            mode,
            uid,
            gid,
            access: time(fattr::ATIME, fattr::ATIME_NOW, access, access_ns),
            modification: time(fattr::MTIME, fattr::MTIME_NOW, modification, modification_ns),
        })
    }

    fn has(&self, what: u32) -> bool {
        self.valid & what != 0
    }
}

impl Server {
    pub(crate) fn getattr(&self, mut call: Call<'_>) -> Result<Reply> {
        let (flags, _, handle) = (call.input.u32()?, call.input.u32()?, call.input.u64()?);
        if flags & GETATTR_FH != 0 {
            // Of a file without a name there may be nothing else.
            let attr = self.attr(&self.handles.file(handle)?.fd)?;
            return Ok(attr.attr_out().into());
        }
        let attr = self.attr(&*self.nodes.fd(call.header.node)?)?;
        Ok(attr.attr_out().into())
    }

    pub(crate) fn setattr(&self, mut call: Call<'_>) -> Result<Reply> {
        let change = Change::read(&mut call)?;
        let handle = match change.has(fattr::FH) {
            true => Some(self.handles.file(change.handle)?),
            false => None,
        };
        let node;
        let fd = match &handle {
            Some(handle) => &handle.fd,
            None => {
                node = self.nodes.fd(call.header.node)?;
                &*node
            }
        };
        if change.has(fattr::UID | fattr::GID) {
            let stat = host::stat(fd)?;
            let mut owner = self.share.owners.of(fd, &stat);
            if change.has(fattr::UID) {
                owner.uid = change.uid;
            }
            if change.has(fattr::GID) {
                owner.gid = change.gid;
            }
            self.change_owner(fd, owner)?;
        }
        // After the owner, whose change takes bits away.
        if change.has(fattr::MODE) {
            self.change_mode(fd, change.mode)?;
        }
        if change.has(fattr::SIZE) {
            let opened;
            let file = match &handle {
                Some(handle) => &handle.fd,
                None => {
                    if host::kind(&host::stat(fd)?) != FileType::RegularFile {
                        return Err(Errno::INVAL);
                    }
                    opened = self.nodes.roomy(|| host::reopen(fd, OFlags::WRONLY))?;
                    &opened
                }
            };
            ftruncate(file, change.size)?;
            if change.has(fattr::KILL_SUIDGID) {
                kill_set_ids(file)?;
            }
        }
        if change.has(fattr::ATIME | fattr::MTIME | fattr::ATIME_NOW | fattr::MTIME_NOW) {
            let times = Timestamps {
                last_access: change.access,
                last_modification: change.modification,
            };
            utimensat(rustix::fs::CWD, host::path_of(fd), &times, AtFlags::empty())?;
        }
        Ok(self.attr(fd)?.attr_out().into())
    }

    fn change_mode(&self, fd: &OwnedFd, mode: u32) -> Result<()> {
        // Links have no permissions; what Linux did with them instead has changed over time.
        if host::kind(&host::stat(fd)?) == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let mode = Mode::from_raw_mode(mode & 0o7777);
        chmodat(rustix::fs::CWD, host::path_of(fd), mode, AtFlags::empty())
    }

    /// A program that belongs to somebody else runs as nobody else (FUSE_HANDLE_KILLPRIV_V2).
    fn change_owner(&self, fd: &OwnedFd, owner: Ids) -> Result<()> {
        self.share.owners.give(fd, &host::stat(fd)?, owner)?;
        let stat = host::stat(fd)?;
        let mode = u32::from(stat.stx_mode) & 0o7777;
        let less = without_set_ids(mode);
        match host::kind(&stat) == FileType::RegularFile && less != mode {
            true => self.change_mode(fd, less),
            false => Ok(()),
        }
    }

    pub(crate) fn readlink(&self, call: Call<'_>) -> Result<Reply> {
        let fd = self.nodes.fd(call.header.node)?;
        if self.nodes.kind(call.header.node)? != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let target = readlinkat(&fd, c"", vec![])?;
        Ok(Output(target.into_bytes()).into())
    }

    pub(crate) fn statfs(&self, call: Call<'_>) -> Result<Reply> {
        let stat = fstatvfs(&*self.nodes.fd(call.header.node)?)?;
        let mut out = Output::default();
        out.u64(stat.f_blocks).u64(stat.f_bfree).u64(stat.f_bavail);
        out.u64(stat.f_files).u64(stat.f_ffree);
        out.u32(stat.f_bsize as u32).u32(stat.f_namemax as u32);
        out.u32(stat.f_frsize as u32).zeroes(28);
        Ok(out.into())
    }
}
