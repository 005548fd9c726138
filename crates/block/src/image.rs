//! An open image.

use crate::buffer::{Buffer, HostBuffer, Source};
use crate::error::OpenError;
use crate::pin::Pin;
use crate::qcow2::Qcow2;
use crate::raw::Raw;
use crate::vmdk::Vmdk;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// A format of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The disk as it is.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
    /// VMware's format, for reading.
    Vmdk,
}

impl Format {
    /// Its name, as QEMU has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "vmdk" => Ok(Self::Vmdk),
            _ => Err(format!(
                "there is no format {text:?}; there are: raw, qcow2, vmdk"
            )),
        }
    }
}

/// Where a range lies in a file.
pub struct Direct {
    /// The file.
    pub file: Arc<File>,
    /// The range's offset there.
    pub at: u64,
    /// To be kept until the transfer is over.
    pub pin: Pin,
}

/// A part of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Whether it may be anything but zeroes.
    pub data: bool,
    /// Its bytes.
    pub len: u64,
}

pub(crate) enum Driver {
    Raw(Raw),
    Qcow2(Box<Qcow2>),
    /// Whose image is read-only.
    Vmdk(Vmdk),
}

/// An open image, with its backing files. All of it may be used by several threads at once.
///
/// Ranges need not be aligned, but have to lie on the disk: others are [`io::ErrorKind::InvalidInput`]. A damaged
/// image gives [`crate::Corrupt`] inside an [`io::Error`]; a full file system gives
/// [`io::ErrorKind::StorageFull`], leaves everything as it was, and the transfer may be tried again.
///
/// What was written is on the disk after a [`Image::flush`] that came after it. When the last reference to an image
/// is dropped it is closed, see [`Image::close`].
pub struct Image {
    pub(crate) driver: Driver,
    pub(crate) path: PathBuf,
    pub(crate) backing: Option<Arc<Image>>,
    pub(crate) read_only: bool,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({}, {})", self.path.display(), self.format())
    }
}

impl Image {
    /// Its file, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    pub fn format(&self) -> Format {
        match self.driver {
            Driver::Raw(_) => Format::Raw,
            Driver::Qcow2(_) => Format::Qcow2,
            Driver::Vmdk(_) => Format::Vmdk,
        }
    }

    /// The image below this one.
    pub fn backing(&self) -> Option<&Arc<Image>> {
        self.backing.as_ref()
    }

    /// Whether it refuses to be written to.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Bytes of the disk: whole sectors of 512. What a file has less than that reads as zeroes, as with QEMU.
    pub fn size(&self) -> u64 {
        match &self.driver {
            Driver::Raw(raw) => raw.size(),
            Driver::Qcow2(qcow2) => qcow2.size(),
            Driver::Vmdk(vmdk) => vmdk.size(),
        }
    }

    /// Fills the buffer from the disk at `offset`.
    pub fn read(&self, offset: u64, buffer: &dyn Buffer) -> io::Result<()> {
        self.on_disk(offset, buffer.len() as u64)?;
        self.read_range(offset, buffer, 0..buffer.len())
    }

    /// Fills bytes from the disk at `offset`.
    pub fn read_bytes(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read(offset, &HostBuffer::new(out))
    }

    /// A part of the buffer, on the disk as the caller knows.
    pub(crate) fn read_range(&self, offset: u64, buffer: &dyn Buffer, range: Range<usize>) -> io::Result<()> {
        match &self.driver {
            Driver::Raw(raw) => raw.read(offset, buffer, range),
            Driver::Qcow2(qcow2) => qcow2.read(offset, buffer, range),
            Driver::Vmdk(vmdk) => vmdk.read(offset, buffer, range),
        }
    }

    /// Writes the buffer to the disk at `offset`.
    pub fn write(&self, offset: u64, buffer: &dyn Buffer) -> io::Result<()> {
        self.writable(offset, buffer.len() as u64)?;
        match &self.driver {
            Driver::Raw(raw) => raw.write(offset, buffer, 0..buffer.len()),
            Driver::Qcow2(qcow2) => qcow2.write(offset, buffer, 0..buffer.len()),
            Driver::Vmdk(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    /// Writes bytes to the disk at `offset`.
    pub fn write_bytes(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, &Source(data))
    }

    /// Returns when everything written before is on the disk for good, including what was written through
    /// [`Image::direct`].
    pub fn flush(&self) -> io::Result<()> {
        match &self.driver {
            _ if self.read_only => Ok(()),
            Driver::Raw(raw) => raw.flush(),
            Driver::Qcow2(qcow2) => qcow2.flush(),
            Driver::Vmdk(_) => Ok(()),
        }
    }

    /// Tells that a range's content does not matter any more. Its room is given back where that is possible; it
    /// reads as zeroes or as before.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.writable(offset, len)?;
        match &self.driver {
            _ if len == 0 => Ok(()),
            Driver::Raw(raw) => raw.discard(offset, len),
            Driver::Qcow2(qcow2) => qcow2.discard(offset, len),
            Driver::Vmdk(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    /// Makes a range read as zeroes. With `may_unmap` its room is given back where that is possible.
    pub fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        self.writable(offset, len)?;
        match &self.driver {
            _ if len == 0 => Ok(()),
            Driver::Raw(raw) => raw.write_zeroes(offset, len, may_unmap),
            Driver::Qcow2(qcow2) => qcow2.write_zeroes(offset, len, may_unmap),
            Driver::Vmdk(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    /// Where a range can be transferred without this image, if it lies in one piece in one file; for writing only
    /// if nothing has to be allocated or copied. What fails here fails in [`Image::read`] or [`Image::write`],
    /// too, which is what `None` leads to.
    pub fn direct(&self, offset: u64, len: u64, for_write: bool) -> Option<Direct> {
        let allowed = match for_write {
            true => self.writable(offset, len),
            false => self.on_disk(offset, len),
        };
        if allowed.is_err() || len == 0 {
            return None;
        }
        match &self.driver {
            Driver::Raw(raw) => raw.direct(offset, len, for_write),
            Driver::Qcow2(qcow2) => qcow2.direct(offset, len, for_write),
            Driver::Vmdk(vmdk) => vmdk.direct(offset, len, for_write),
        }
        .ok()
        .flatten()
    }

    /// What is at `offset`, and how far that goes, `len` bytes at most. Backing files are looked into.
    pub fn extent(&self, offset: u64, len: u64) -> io::Result<Extent> {
        self.on_disk(offset, len)?;
        match &self.driver {
            _ if len == 0 => Ok(Extent { data: false, len: 0 }),
            Driver::Raw(raw) => raw.extent(offset, len),
            Driver::Qcow2(qcow2) => qcow2.extent(offset, len),
            Driver::Vmdk(vmdk) => vmdk.extent(offset, len),
        }
    }

    /// Changes the disk's size, a multiple of 512. What a smaller one cuts off is lost; what a larger one adds reads
    /// as zeroes. Nothing may be written meanwhile.
    pub fn resize(&self, size: u64) -> Result<(), OpenError> {
        whole_sectors(size)?;
        match &self.driver {
            Driver::Vmdk(_) => Err(OpenError::only_read(&self.path, Format::Vmdk)),
            _ if self.read_only => Err(OpenError::Permission {
                file: self.path.clone(),
                verb: "written",
            }),
            Driver::Raw(raw) => raw.resize(size),
            Driver::Qcow2(qcow2) => qcow2.resize(size),
        }
    }

    /// Writes everything that is in memory and marks the image as whole, which dropping it does as well, but
    /// without telling what fails. It may go on being used.
    pub fn close(&self) -> io::Result<()> {
        match &self.driver {
            _ if self.read_only => Ok(()),
            Driver::Raw(raw) => raw.flush(),
            Driver::Qcow2(qcow2) => qcow2.close(),
            Driver::Vmdk(_) => Ok(()),
        }
    }

    fn on_disk(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "past the end of the disk",
            )),
        }
    }

    fn writable(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.read_only {
            true => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            false => self.on_disk(offset, len),
        }
    }
}

/// Fails unless a disk can have that size.
pub(crate) fn whole_sectors(size: u64) -> Result<(), OpenError> {
    match size.checked_next_multiple_of(512) {
        Some(whole) if whole == size => Ok(()),
        whole => Err(OpenError::Argument(format!(
            "a disk has whole sectors of 512 bytes: {} would do",
            whole.unwrap_or(u64::MAX - 511)
        ))),
    }
}
