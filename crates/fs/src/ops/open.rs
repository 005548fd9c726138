//! Opening and closing.

use crate::abi::{KEEP_CACHE, OPEN_KILL_SUIDGID};
use crate::nodes::State;
use crate::server::{Call, Server};
use crate::wire::{DONE, Output, Reply};
use crate::{Result, host};
use rustix::fs::{FileType, Mode, OFlags, fchmod};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

/// What of a guest's flags counts for the host. Not O_APPEND, which counts at each write; not O_DIRECT, as the page
/// cache of the host is none of the guest's; not O_CREAT and O_EXCL, which CREATE has apart.
const FLAGS: OFlags = OFlags::RDWR
    .union(OFlags::WRONLY)
    .union(OFlags::TRUNC)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC);

impl Server {
    /// What a file is opened with on the host.
    pub(crate) fn open_flags(&self, guest: u32) -> Result<OFlags> {
        let flags = OFlags::from_bits_retain(guest) & FLAGS;
        let access = flags & OFlags::RWMODE;
        if self.share.read_only && (access != OFlags::RDONLY || flags.contains(OFlags::TRUNC)) {
            return Err(Errno::ROFS);
        }
        Ok(flags | OFlags::NOCTTY)
    }

    /// Opens a regular file by its node's descriptor.
    fn open_file(&self, fd: &OwnedFd, flags: OFlags, kill: u32) -> Result<OwnedFd> {
        let file = self.nodes.roomy(|| host::reopen(fd, flags))?;
        if kill & OPEN_KILL_SUIDGID != 0 && flags.contains(OFlags::TRUNC) {
            kill_set_ids(&file)?;
        }
        Ok(file)
    }

    pub(crate) fn open(&self, mut call: Call<'_>) -> Result<Reply> {
        let (guest, kill) = (call.input.u32()?, call.input.u32()?);
        let node = call.header.node;
        let flags = self.open_flags(guest)?;
        match self.nodes.kind(node)? {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            FileType::Symlink => return Err(Errno::LOOP),
            // Guests have FIFOs, sockets and devices of their own under such names.
            _ => return Err(Errno::NXIO),
        }
        let file = self.open_file(&*self.nodes.fd(node)?, flags, kill)?;
        let mut out = Output::default();
        self.opened(node, file, guest, false, &mut out)?;
        Ok(out.into())
    }

    pub(crate) fn opendir(&self, call: Call<'_>) -> Result<Reply> {
        let node = call.header.node;
        if self.nodes.kind(node)? != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.nodes.fd(node)?;
        let directory = self.nodes.roomy(|| host::reopen(&fd, flags))?;
        let mut out = Output::default();
        self.opened(node, directory, 0, true, &mut out)?;
        Ok(out.into())
    }

    /// `struct fuse_open_out`.
    fn opened(&self, node: u64, fd: OwnedFd, flags: u32, directory: bool, out: &mut Output) -> Result<()> {
        let mut answer = 0;
        if !directory {
            let now = clock_gettime(ClockId::RealtimeCoarse).tv_sec;
            if self.nodes.is_unchanged(node, State::of(&host::stat(&fd)?, now)) {
                answer |= KEEP_CACHE;
            }
        }
        let handle = self.handles.add(node, fd, flags, directory)?;
        out.u64(handle).u32(answer).u32(0);
        Ok(())
    }

    pub(crate) fn create(&self, mut call: Call<'_>) -> Result<Reply> {
        let (guest, mode) = (call.input.u32()?, call.input.u32()?);
        let (_umask, kill) = (call.input.u32()?, call.input.u32()?);
        let name = call.input.name()?;
        let parent = call.header.node;
        let flags = self.open_flags(guest)?;
        let directory = self.nodes.fd(parent)?;
        let permissions = Mode::from_raw_mode(mode & 0o7777);
        let mut out = Output::default();
        // Always a new one first: what the name leads to otherwise has to be looked at before it is opened.
        let made = self
            .nodes
            .roomy(|| host::create(&directory, name, flags, permissions));
        let (node, file) = match made {
            Ok(file) => {
                // Not by its name, which may be another file's by now.
                let fd = self.nodes.roomy(|| host::reopen(&file, OFlags::PATH))?;
                let node = self.made(call.header, &directory, (name, fd), mode, &mut out)?;
                (node, file)
            }
            Err(Errno::EXIST) if guest & OFlags::EXCL.bits() == 0 => {
                let (node, fd) = self.existing(parent, &directory, name, &mut out)?;
                (node, self.open_file(&fd, flags, kill)?)
            }
            Err(e) => return Err(e),
        };
        self.opened(node, file, guest, false, &mut out)?;
        Ok(out.into())
    }

    /// A regular file that is there already.
    fn existing(
        &self,
        parent: u64,
        directory: &OwnedFd,
        name: &CStr,
        out: &mut Output,
    ) -> Result<(u64, std::sync::Arc<OwnedFd>)> {
        let node = self.entry(parent, directory, name, out)?;
        match self.nodes.kind(node)? {
            FileType::RegularFile => Ok((node, self.nodes.fd(node)?)),
            // The guest did not know of it, and has to look.
            _ => {
                self.nodes.forget(node, 1);
                Err(Errno::STALE)
            }
        }
    }

    pub(crate) fn release(&self, mut call: Call<'_>) -> Result<Reply> {
        self.handles.remove(call.input.u64()?)?;
        Ok(DONE)
    }
}

/// A mode without the set-user-ID bit, and without the set-group-ID bit if the group may execute the file; otherwise
/// that is for locks.
pub(super) fn without_set_ids(mode: u32) -> u32 {
    let group = if mode & 0o010 != 0 { 0o2000 } else { 0 };
    mode & !(0o4000 | group)
}

/// A file that is changed loses its set-user-ID and set-group-ID bits.
pub(super) fn kill_set_ids(file: impl AsFd) -> Result<()> {
    let mode = u32::from(host::stat(&file)?.stx_mode) & 0o7777;
    let less = without_set_ids(mode);
    match less == mode {
        true => Ok(()),
        false => fchmod(file, Mode::from_raw_mode(less)),
    }
}
