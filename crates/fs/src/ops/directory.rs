//! Reading directories.

use crate::Result;
use crate::abi::{DIRENT, ENTRY_OUT, ROOT, op};
use crate::handles::Handle;
use crate::server::{Call, Server};
use crate::wire::{Output, Reply};
use rustix::fs::{FileType, RawDir, RawDirEntry, SeekFrom, seek};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::sync::{Arc, PoisonError};

/// The most bytes of entries that one request gets.
const MOST: usize = 128 << 10;
/// Bytes that are asked of the host at a time, enough for the longest name.
const BUFFER: usize = 16 << 10;

impl Server {
    pub(crate) fn readdir(&self, mut call: Call<'_>) -> Result<Reply> {
        let (handle, offset, size) = (call.input.u64()?, call.input.u64()?, call.input.u32()?);
        let room = (size as usize).min(call.room()).min(MOST);
        let plus = call.header.op == op::READDIRPLUS;
        let handle = self.handles.directory(handle)?;
        let mut out = Output::default();
        self.entries(&handle, offset, room, plus, &mut out)?;
        Ok(out.into())
    }

    /// As many entries as there is room for, from a position on.
    fn entries(
        &self,
        handle: &Arc<Handle>,
        offset: u64,
        room: usize,
        plus: bool,
        out: &mut Output,
    ) -> Result<()> {
        let directory = match plus {
            true => Some(self.nodes.fd(handle.node)?),
            false => None,
        };
        let _alone = handle.reading.lock().unwrap_or_else(PoisonError::into_inner);
        seek(&handle.fd, SeekFrom::Start(offset))?;
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut entries = RawDir::new(&handle.fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(_) if !out.0.is_empty() => break,
                Err(e) => return Err(e),
            };
            let name = entry.file_name();
            let bytes = name.to_bytes();
            let len = DIRENT + bytes.len().next_multiple_of(8) + if plus { ENTRY_OUT } else { 0 };
            if out.0.len() + len > room {
                if out.0.is_empty() {
                    return Err(Errno::INVAL);
                }
                break;
            }
            let dots = matches!(bytes, b"." | b"..");
            if let Some(directory) = &directory {
                let before = out.0.len();
                // What cannot be looked at is only named: it may have gone since.
                let known = !dots && self.entry(handle.node, directory, name, out).is_ok();
                if !known {
                    out.0.truncate(before);
                    out.zeroes(ENTRY_OUT);
                }
            }
            // What the shared directory is in is nothing to the guest.
            let hidden = handle.node == ROOT && bytes == b"..";
            let ino = if hidden { ROOT } else { entry.ino() };
            out.u64(ino).u64(entry.next_entry_cookie());
            out.u32(bytes.len() as u32).u32(type_of(&entry)).bytes(bytes);
            out.zeroes(bytes.len().next_multiple_of(8) - bytes.len());
        }
        Ok(())
    }
}

/// DT_…, the upper bits of a mode.
fn type_of(entry: &RawDirEntry<'_>) -> u32 {
    match entry.file_type() {
        FileType::Unknown => 0,
        kind => kind.as_raw_mode() >> 12,
    }
}
