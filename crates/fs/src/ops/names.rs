//! Names: finding, removing, renaming.

use crate::abi::op;
use crate::server::{Call, Server};
use crate::wire::{DONE, Output, Reply};
use crate::{Result, host};
use rustix::fs::{AtFlags, RenameFlags, Statx, linkat, renameat_with, unlinkat};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::OwnedFd;

/// What renameat2(2) knows.
const RENAME_FLAGS: RenameFlags = RenameFlags::NOREPLACE
    .union(RenameFlags::EXCHANGE)
    .union(RenameFlags::WHITEOUT);

impl Server {
    /// `struct fuse_entry_out` of what has a name; the guest knows it then.
    pub(crate) fn entry(
        &self,
        parent: u64,
        directory: &OwnedFd,
        name: &CStr,
        out: &mut Output,
    ) -> Result<u64> {
        let found = self.nodes.roomy(|| host::child(directory, name))?;
        let attr = self.attr(&found)?;
        let node = self.nodes.enter(parent, name, found, &attr.stat)?;
        attr.entry_out(node, out);
        Ok(node)
    }

    pub(crate) fn lookup(&self, mut call: Call<'_>) -> Result<Reply> {
        let (parent, name) = (call.header.node, call.input.name()?);
        let directory = self.nodes.fd(parent)?;
        let mut out = Output::default();
        self.entry(parent, &directory, name, &mut out)?;
        Ok(out.into())
    }

    pub(crate) fn forget(&self, mut call: Call<'_>) -> Result<Reply> {
        self.nodes.forget(call.header.node, call.input.u64()?);
        Ok(Reply::None)
    }

    pub(crate) fn batch_forget(&self, mut call: Call<'_>) -> Result<Reply> {
        let (count, _) = (call.input.u32()?, call.input.u32()?);
        for _ in 0..count {
            let (node, times) = (call.input.u64()?, call.input.u64()?);
            self.nodes.forget(node, times);
        }
        Ok(Reply::None)
    }

    /// What is about to lose its name.
    fn named(&self, directory: &OwnedFd, name: &CStr) -> Result<(OwnedFd, Statx)> {
        let found = self.nodes.roomy(|| host::child(directory, name))?;
        let stat = host::stat(&found)?;
        Ok((found, stat))
    }

    pub(crate) fn unlink(&self, mut call: Call<'_>) -> Result<Reply> {
        let (parent, name) = (call.header.node, call.input.name()?);
        let directory = self.nodes.fd(parent)?;
        let (was, stat) = self.named(&directory, name)?;
        let flags = match call.header.op {
            op::RMDIR => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        unlinkat(&directory, name, flags)?;
        self.nodes.unnamed(parent, name, was, &stat);
        Ok(DONE)
    }

    pub(crate) fn rename(&self, mut call: Call<'_>) -> Result<Reply> {
        let (from, to) = (call.header.node, call.input.u64()?);
        let mut flags = RenameFlags::empty();
        if call.header.op == op::RENAME2 {
            flags = RenameFlags::from_bits_retain(call.input.u32()?);
            call.input.u32()?;
        }
        if !RENAME_FLAGS.contains(flags) {
            return Err(Errno::INVAL);
        }
        let (old, new) = (call.input.name()?, call.input.name()?);
        let (source, target) = (self.nodes.fd(from)?, self.nodes.fd(to)?);
        let (_moved, moved) = self.named(&source, old)?;
        let replaced = self.named(&target, new);
        renameat_with(&source, old, &target, new, flags)?;
        if let Ok((fd, stat)) = replaced {
            if flags.contains(RenameFlags::EXCHANGE) {
                self.nodes.renamed(from, old, &stat);
            } else {
                self.nodes.unnamed(to, new, fd, &stat);
            }
        }
        self.nodes.renamed(to, new, &moved);
        Ok(DONE)
    }

    pub(crate) fn link(&self, mut call: Call<'_>) -> Result<Reply> {
        let file = self.nodes.fd(call.input.u64()?)?;
        let (parent, name) = (call.header.node, call.input.name()?);
        let directory = self.nodes.fd(parent)?;
        let path = host::path_of(&file);
        linkat(rustix::fs::CWD, path, &directory, name, AtFlags::SYMLINK_FOLLOW)?;
        let mut out = Output::default();
        self.entry(parent, &directory, name, &mut out)?;
        Ok(out.into())
    }
}
