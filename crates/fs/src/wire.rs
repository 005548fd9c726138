//! Requests taken apart and answers put together. All numbers are little-endian, as x86 guests have them.

use crate::Result;
use crate::abi::{IN_HEADER, OUT_HEADER};
use donjon_memory::Scatter;
use rustix::io::Errno;
use std::ffi::CStr;

/// A request's header, `struct fuse_in_header`.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub len: usize,
    pub op: u32,
    pub unique: u64,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
}

impl Header {
    /// The header of a request that is long enough to have one.
    pub fn load(request: &Scatter) -> Option<Self> {
        if request.len() < IN_HEADER {
            return None;
        }
        let mut bytes = [0; IN_HEADER];
        request.load(0, &mut bytes);
        let mut input = Input(&bytes);
        let mut read = || {
            Ok::<_, Errno>(Self {
                len: input.u32()? as usize,
                op: input.u32()?,
                unique: input.u64()?,
                node: input.u64()?,
                uid: input.u32()?,
                gid: input.u32()?,
            })
        };
        read().ok()
    }
}

/// Arguments of a request. What is missing is EINVAL.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*first)
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// A string with its NUL.
    pub fn text(&mut self) -> Result<&'a CStr> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = &self.0[text.to_bytes_with_nul().len()..];
        Ok(text)
    }

    /// A name in a directory: one component, and not one that leads out of it.
    pub fn name(&mut self) -> Result<&'a CStr> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            _ => Ok(name),
        }
    }
}

/// An answer without its header.
#[derive(Default)]
pub struct Output(pub Vec<u8>);

impl Output {
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn zeroes(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}

/// What a request is answered with.
pub enum Reply {
    /// Nothing at all.
    None,
    /// Success, and this.
    Output(Output),
    /// Success, and so many bytes that are in their place already.
    Data(usize),
}

impl From<Output> for Reply {
    fn from(output: Output) -> Self {
        Self::Output(output)
    }
}

/// Success, and nothing else to say.
pub const DONE: Reply = Reply::Data(0);

/// Writes `struct fuse_out_header` with `data` bytes behind it; the length of both.
pub fn store_header(reply: &Scatter, unique: u64, error: Option<Errno>, data: usize) -> usize {
    let len = OUT_HEADER + data;
    let mut header = Output::default();
    header
        .u32(len as u32)
        .u32(error.map_or(0, |e| e.raw_os_error().wrapping_neg() as u32))
        .u64(unique);
    reply.store(0, &header.0);
    len
}
