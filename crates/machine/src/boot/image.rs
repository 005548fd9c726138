//! A file to boot from: opened once, read by ranges, never whole.

use super::error::BootError;
use donjon_memory::Ram;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a file is to the domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The kernel.
    Kernel,
    /// The initial RAM disk.
    Initrd,
}

impl Role {
    /// The command-line option that names it.
    pub fn flag(self) -> &'static str {
        match self {
            Role::Kernel => "--kernel",
            Role::Initrd => "--initrd",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::Kernel => "kernel",
            Role::Initrd => "initrd",
        })
    }
}

/// Who unpacks the kernel inside a bzImage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unpack {
    /// The host, much faster, if what comes out has a PVH entry; else the guest.
    #[default]
    Auto,
    /// The guest, as on hardware: its kernel then may choose a random address (KASLR).
    Never,
}

/// A kernel or an initrd. It stays open, so that a reset domain loads the same file again even if its name
/// is gone.
#[derive(Clone, Debug)]
pub struct Image {
    role: Role,
    path: PathBuf,
    len: u64,
    content: Content,
    unpack: Unpack,
}

#[derive(Clone, Debug)]
enum Content {
    File(Arc<File>),
    Bytes(Arc<[u8]>),
}

impl Image {
    /// Opens a file.
    pub fn open(role: Role, path: &Path) -> Result<Self, BootError> {
        let failed = |cause| BootError::Read {
            role,
            path: path.into(),
            cause,
        };
        // Looked at before it is opened: opening a FIFO would wait for a writer.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        let what = match kind {
            k if k.is_file() => None,
            k if k.is_dir() => Some("a directory"),
            k if k.is_fifo() => Some("a pipe"),
            k if k.is_socket() => Some("a socket"),
            _ => Some("a device"),
        };
        if let Some(what) = what {
            return Err(BootError::NotAFile {
                role,
                path: path.into(),
                what,
            });
        }
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        if len == 0 {
            return Err(BootError::Empty {
                role,
                path: path.into(),
            });
        }
        Ok(Self {
            role,
            path: path.into(),
            len,
            content: Content::File(Arc::new(file)),
            unpack: Unpack::default(),
        })
    }

    /// An image that is already in memory; `name` is for messages.
    pub fn from_bytes(role: Role, name: &str, bytes: impl Into<Arc<[u8]>>) -> Result<Self, BootError> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Err(BootError::Empty {
                role,
                path: name.into(),
            });
        }
        Ok(Self {
            role,
            path: name.into(),
            len: bytes.len() as u64,
            content: Content::Bytes(bytes),
            unpack: Unpack::default(),
        })
    }

    /// The same kernel, unpacked by whom `unpack` says if it is a bzImage.
    pub fn with_unpack(self, unpack: Unpack) -> Self {
        Self { unpack, ..self }
    }

    /// A file of `len` bytes inside this one, of which only the beginning is known.
    pub(super) fn beginning_inside(&self, beginning: &[u8], len: u64) -> Self {
        Self {
            len,
            content: Content::Bytes(beginning.into()),
            ..self.clone()
        }
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who unpacks it.
    pub(super) fn unpack(&self) -> Unpack {
        self.unpack
    }

    /// Its size in bytes; never zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` from `offset`. `what` names the part, for the message if the file ends before it.
    pub(super) fn read(&self, offset: u64, out: &mut [u8], what: &str) -> Result<(), BootError> {
        let needed = offset.saturating_add(out.len() as u64);
        if needed > self.len {
            return Err(self.truncated(what, needed));
        }
        match &self.content {
            Content::Bytes(b) => match b.get(offset as usize..needed as usize) {
                Some(bytes) => out.copy_from_slice(bytes),
                None => return Err(self.truncated(what, needed)),
            },
            Content::File(f) => f.read_exact_at(out, offset).map_err(|cause| BootError::Read {
                role: self.role,
                path: self.path.clone(),
                cause,
            })?,
        }
        Ok(())
    }

    /// Calls `each` with the bytes of a range in order, in pieces of at most 1 MiB.
    pub(super) fn for_each_piece(
        &self,
        offset: u64,
        len: u64,
        what: &str,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), BootError>,
    ) -> Result<(), BootError> {
        if offset.saturating_add(len) > self.len {
            return Err(self.truncated(what, offset.saturating_add(len)));
        }
        let mut piece = vec![0; len.min(1 << 20) as usize];
        let mut done = 0;
        while done < len {
            let part = &mut piece[..(len - done).min(1 << 20) as usize];
            self.read(offset + done, part, what)?;
            each(done, part)?;
            done += part.len() as u64;
        }
        Ok(())
    }

    /// Copies a range of the file to guest-physical `address`.
    pub(super) fn copy_to(
        &self,
        ram: &Ram,
        offset: u64,
        len: u64,
        address: u64,
        what: &str,
    ) -> Result<(), BootError> {
        self.for_each_piece(offset, len, what, |at, piece| {
            Ok(ram.write(address.saturating_add(at), piece)?)
        })
    }

    /// A range of the file as a stream.
    pub(super) fn range(&self, offset: u64, len: u64) -> Range<'_> {
        let end = offset.saturating_add(len);
        Range {
            image: self,
            at: offset,
            end,
        }
    }

    pub(super) fn truncated(&self, what: &str, needed: u64) -> BootError {
        BootError::Truncated {
            path: self.path.clone(),
            what: what.into(),
            needed,
            have: self.len,
        }
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> BootError {
        BootError::Damaged {
            path: self.path.clone(),
            what: what.into(),
        }
    }

    pub(super) fn wrong_kind(&self, found: impl Into<String>, fix: impl Into<String>) -> BootError {
        BootError::WrongKind {
            path: self.path.clone(),
            found: found.into(),
            fix: fix.into(),
        }
    }
}

/// See [`Image::range`].
pub(super) struct Range<'a> {
    image: &'a Image,
    at: u64,
    end: u64,
}

impl Read for Range<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = (out.len() as u64).min(self.end - self.at);
        let read = self.image.read(self.at, &mut out[..n as usize], "payload");
        read.map_err(io::Error::other)?;
        self.at += n;
        Ok(n as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_file_is_named() {
        let directory = Image::open(Role::Kernel, Path::new("/")).unwrap_err();
        assert_eq!(directory.to_string(), "kernel / is a directory, not a file");
        let device = Image::open(Role::Initrd, Path::new("/dev/null")).unwrap_err();
        assert_eq!(device.to_string(), "initrd /dev/null is a device, not a file");
        let missing = Image::open(Role::Kernel, Path::new("/no/such")).unwrap_err();
        assert!(
            missing
                .to_string()
                .starts_with("cannot read kernel /no/such: No such file"),
            "{missing}"
        );
        assert!(missing.fix().contains("/no/such"));
    }

    #[test]
    fn a_range_past_the_end_is_a_cut_short_file() {
        let image = Image::from_bytes(Role::Kernel, "k", vec![1; 10]).unwrap();
        let mut out = [0; 4];
        image.read(6, &mut out, "tail").unwrap();
        let e = image.read(u64::MAX - 1, &mut out, "tail").unwrap_err();
        assert!(matches!(e, BootError::Truncated { have: 10, .. }));
    }
}
