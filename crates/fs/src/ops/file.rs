//! What is done with open files.

use crate::abi::{FSYNC_FDATASYNC, IN_HEADER, MAX_WRITE, OUT_HEADER, WRITE_IN, WRITE_KILL_SUIDGID, op};
use crate::ops::open::kill_set_ids;
use crate::server::{Call, Server};
use crate::wire::{DONE, Output, Reply};
use crate::{Result, host};
use rustix::fs::{
    FallocateFlags, OFlags, SeekFrom, copy_file_range, fallocate, fdatasync, fsync, seek, syncfs,
};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// What fallocate(2) may do.
const FALLOCATE: FallocateFlags = FallocateFlags::KEEP_SIZE
    .union(FallocateFlags::PUNCH_HOLE)
    .union(FallocateFlags::ZERO_RANGE);
/// The most bytes of one COPY_FILE_RANGE, so that none takes forever. Guests go on where it ends.
const MOST_COPIED: u64 = 64 << 20;
/// `whence` of lseek(2).
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

impl Server {
    pub(crate) fn read(&self, mut call: Call<'_>) -> Result<Reply> {
        let (handle, offset, size) = (call.input.u64()?, call.input.u64()?, call.input.u32()?);
        let handle = self.handles.file(handle)?;
        let wanted = (size.min(MAX_WRITE) as usize).min(call.room());
        let mut done = 0;
        while done < wanted {
            let range = OUT_HEADER + done..OUT_HEADER + wanted;
            let at = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
            match call.reply.read_from(range, handle.fd.as_fd(), Some(at)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(host::errno(&e)),
            }
        }
        Ok(Reply::Data(done))
    }

    pub(crate) fn write(&self, mut call: Call<'_>) -> Result<Reply> {
        let (handle, offset) = (call.input.u64()?, call.input.u64()?);
        let (size, write_flags) = (call.input.u32()?, call.input.u32()?);
        let (_lock_owner, flags) = (call.input.u64()?, call.input.u32()?);
        let start = IN_HEADER + WRITE_IN;
        let size = size as usize;
        if size > MAX_WRITE as usize || size > call.header.len.saturating_sub(start) {
            return Err(Errno::INVAL);
        }
        let handle = self.handles.file(handle)?;
        if write_flags & WRITE_KILL_SUIDGID != 0 {
            kill_set_ids(&handle.fd)?;
        }
        // The guest takes the end of the file for where it was last; the host knows where it is.
        let append = flags & OFlags::APPEND.bits() != 0;
        let mut done = 0;
        while done < size {
            let range = start + done..start + size;
            let at = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
            let fd = handle.fd.as_fd();
            let written = match append {
                true => call.request.append_to(range, fd),
                false => call.request.write_to(range, fd, Some(at)),
            };
            match written {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(host::errno(&e)),
            }
        }
        Ok(written(done as u64))
    }

    pub(crate) fn fsync(&self, mut call: Call<'_>) -> Result<Reply> {
        let (handle, flags) = (call.input.u64()?, call.input.u32()?);
        let handle = match call.header.op {
            op::FSYNCDIR => self.handles.directory(handle)?,
            _ => self.handles.file(handle)?,
        };
        match flags & FSYNC_FDATASYNC != 0 {
            true => fdatasync(&handle.fd)?,
            false => fsync(&handle.fd)?,
        }
        Ok(DONE)
    }

    pub(crate) fn syncfs(&self, call: Call<'_>) -> Result<Reply> {
        let fd = self.nodes.fd(call.header.node)?;
        let directory = self
            .nodes
            .roomy(|| host::reopen(&fd, OFlags::RDONLY | OFlags::DIRECTORY))?;
        syncfs(directory)?;
        Ok(DONE)
    }

    pub(crate) fn fallocate(&self, mut call: Call<'_>) -> Result<Reply> {
        let handle = self.handles.file(call.input.u64()?)?;
        let (offset, len, mode) = (call.input.u64()?, call.input.u64()?, call.input.u32()?);
        let mode = FallocateFlags::from_bits_retain(mode);
        if !FALLOCATE.contains(mode) {
            return Err(Errno::OPNOTSUPP);
        }
        fallocate(&handle.fd, mode, offset, len)?;
        Ok(DONE)
    }

    pub(crate) fn lseek(&self, mut call: Call<'_>) -> Result<Reply> {
        let handle = self.handles.file(call.input.u64()?)?;
        let (offset, whence) = (call.input.u64()?, call.input.u32()?);
        let to = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        // The descriptor's own position counts for nothing.
        let found = seek(&handle.fd, to)?;
        let mut out = Output::default();
        out.u64(found);
        Ok(out.into())
    }

    pub(crate) fn copy_file_range(&self, mut call: Call<'_>) -> Result<Reply> {
        let (from, mut from_at) = (self.handles.file(call.input.u64()?)?, call.input.u64()?);
        call.input.u64()?;
        let (to, mut to_at) = (self.handles.file(call.input.u64()?)?, call.input.u64()?);
        let (len, flags) = (call.input.u64()?, call.input.u64()?);
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        let len = len.min(MOST_COPIED) as usize;
        let done = copy_file_range(&from.fd, Some(&mut from_at), &to.fd, Some(&mut to_at), len)?;
        Ok(written(done as u64))
    }
}

/// `struct fuse_write_out`.
fn written(bytes: u64) -> Reply {
    let mut out = Output::default();
    out.u32(bytes as u32).u32(0);
    out.into()
}
