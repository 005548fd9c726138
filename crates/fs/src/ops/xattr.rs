//! Extended attributes (xattr(7)).

use crate::owner::ATTRIBUTES;
use crate::server::{Call, Server};
use crate::wire::{DONE, Output, Reply};
use crate::{Result, host};
use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;
use std::ffi::CStr;

/// The longest value, and the longest list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const MOST: usize = 64 << 10;
/// What only a guest whose owners are the host's may see and change besides: capabilities of programs, and what
/// overlayfs notes.
const PRIVILEGED: [&[u8]; 2] = [b"security.capability", b"trusted.overlay."];

impl Server {
    /// Whether an attribute is one for guests.
    fn is_shared(&self, name: &[u8]) -> bool {
        let user = name.starts_with(b"user.") && !name.starts_with(ATTRIBUTES);
        user || self.share.owners.are_kept() && PRIVILEGED.iter().any(|p| name.starts_with(p))
    }

    fn shared<'a>(&self, name: &'a CStr) -> Result<&'a CStr> {
        match self.is_shared(name.to_bytes()) {
            true => Ok(name),
            false => Err(Errno::OPNOTSUPP),
        }
    }

    pub(crate) fn getxattr(&self, mut call: Call<'_>) -> Result<Reply> {
        let (size, _) = (call.input.u32()?, call.input.u32()?);
        let name = self.shared(call.input.text()?)?;
        let fd = self.nodes.fd(call.header.node)?;
        let mut value = vec![0; MOST];
        let len = getxattr(host::path_of(&fd), name, &mut value[..])?;
        value.truncate(len);
        sized(value, size)
    }

    pub(crate) fn listxattr(&self, mut call: Call<'_>) -> Result<Reply> {
        let (size, _) = (call.input.u32()?, call.input.u32()?);
        let fd = self.nodes.fd(call.header.node)?;
        let mut list = vec![0; MOST];
        let len = listxattr(host::path_of(&fd), &mut list[..])?;
        list.truncate(len);
        let names = list.split_inclusive(|byte| *byte == 0);
        let shared = names.filter(|name| self.is_shared(name)).flatten().copied();
        sized(shared.collect(), size)
    }

    pub(crate) fn setxattr(&self, mut call: Call<'_>) -> Result<Reply> {
        let (size, flags) = (call.input.u32()?, call.input.u32()?);
        let name = self.shared(call.input.text()?)?;
        let value = call.input.0.get(..size as usize).ok_or(Errno::INVAL)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let fd = self.nodes.fd(call.header.node)?;
        setxattr(host::path_of(&fd), name, value, flags)?;
        Ok(DONE)
    }

    pub(crate) fn removexattr(&self, mut call: Call<'_>) -> Result<Reply> {
        let name = self.shared(call.input.text()?)?;
        let fd = self.nodes.fd(call.header.node)?;
        removexattr(host::path_of(&fd), name)?;
        Ok(DONE)
    }
}

/// A value, or its length if the guest has no room and only asks for that (`struct fuse_getxattr_out`).
fn sized(value: Vec<u8>, room: u32) -> Result<Reply> {
    let mut out = Output::default();
    match room as usize {
        0 => out.u32(value.len() as u32).u32(0),
        room if value.len() > room => return Err(Errno::RANGE),
        _ => out.bytes(&value),
    };
    Ok(out.into())
}
