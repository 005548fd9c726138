//! New names: directories, links, special files, and what all new files need.

use crate::owner::Ids;
use crate::server::{Call, Server};
use crate::wire::{Header, Output, Reply};
use crate::{Result, host};
use rustix::fs::{AtFlags, FileType, Mode, chmodat, mkdirat, mknodat, symlinkat};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::OwnedFd;

/// Permissions of a file.
const PERMISSIONS: u32 = 0o7777;
/// S_ISGID (inode(7)): what is made in such a directory belongs to its group.
const SET_GROUP_ID: u32 = 0o2000;
/// What a umask is about.
const UMASKED: u32 = 0o777;

impl Server {
    /// Gives something that was just made its owner and its permissions, and says what it is.
    pub(crate) fn made(
        &self,
        header: &Header,
        directory: &OwnedFd,
        (name, fd): (&CStr, OwnedFd),
        mode: u32,
        out: &mut Output,
    ) -> Result<u64> {
        let mut attr = self.attr(&fd)?;
        let before = u32::from(attr.stat.stx_mode);
        let mut owner = Ids {
            uid: header.uid,
            gid: header.gid,
        };
        let within = host::stat(directory)?;
        if u32::from(within.stx_mode) & SET_GROUP_ID != 0 {
            owner.gid = self.share.owners.of(directory, &within).gid;
        }
        if attr.owner != owner {
            match self.share.owners.give(&fd, &attr.stat, owner) {
                // Nobody but the user himself can be an owner on such a file system.
                Err(Errno::PERM) if !self.share.owners.are_kept() => {}
                result => result?,
            }
            attr = self.attr(&fd)?;
        }
        // What another owner loses, and what this process's umask took, which is not the guest's.
        let wanted = before | mode & UMASKED & self.share.umask;
        let now = u32::from(attr.stat.stx_mode);
        if now & PERMISSIONS != wanted & PERMISSIONS && host::kind(&attr.stat) != FileType::Symlink {
            let mode = Mode::from_raw_mode(wanted & PERMISSIONS);
            chmodat(rustix::fs::CWD, host::path_of(&fd), mode, AtFlags::empty())?;
            attr = self.attr(&fd)?;
        }
        let node = self.nodes.enter(header.node, name, fd, &attr.stat)?;
        attr.entry_out(node, out);
        Ok(node)
    }

    fn made_by_name(&self, header: &Header, directory: &OwnedFd, name: &CStr, mode: u32) -> Result<Reply> {
        let fd = self.nodes.roomy(|| host::child(directory, name))?;
        let mut out = Output::default();
        self.made(header, directory, (name, fd), mode, &mut out)?;
        Ok(out.into())
    }

    pub(crate) fn mkdir(&self, mut call: Call<'_>) -> Result<Reply> {
        // The guest has applied its umask.
        let (mode, _umask) = (call.input.u32()?, call.input.u32()?);
        let name = call.input.name()?;
        let directory = self.nodes.fd(call.header.node)?;
        mkdirat(&directory, name, Mode::from_raw_mode(mode & PERMISSIONS))?;
        self.made_by_name(call.header, &directory, name, mode)
    }

    pub(crate) fn mknod(&self, mut call: Call<'_>) -> Result<Reply> {
        let (mode, device) = (call.input.u32()?, call.input.u32()?);
        let (_umask, _) = (call.input.u32()?, call.input.u32()?);
        let name = call.input.name()?;
        let directory = self.nodes.fd(call.header.node)?;
        let kind = match FileType::from_raw_mode(mode) {
            // A whiteout of overlayfs.
            FileType::CharacterDevice if device == 0 => FileType::CharacterDevice,
            kind @ (FileType::RegularFile | FileType::Fifo | FileType::Socket) => kind,
            // Whoever could use the host's devices by it is not only the guest.
            _ => return Err(Errno::PERM),
        };
        mknodat(&directory, name, kind, Mode::from_raw_mode(mode & PERMISSIONS), 0)?;
        self.made_by_name(call.header, &directory, name, mode)
    }

    pub(crate) fn symlink(&self, mut call: Call<'_>) -> Result<Reply> {
        let (name, target) = (call.input.name()?, call.input.text()?);
        let directory = self.nodes.fd(call.header.node)?;
        symlinkat(target, &directory, name)?;
        self.made_by_name(call.header, &directory, name, 0)
    }
}
