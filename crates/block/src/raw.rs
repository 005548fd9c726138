//! The raw format: a file or block device that is the disk.

use crate::buffer::Buffer;
use crate::error::OpenError;
use crate::image::{Direct, Extent};
use crate::pin::Pin;
use crate::probe::{PROBED, looks_like};
use crate::store::Store;
use crate::sync::Mutex;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open raw image.
pub(crate) struct Raw {
    store: Store,
    size: AtomicU64,
    /// That the image is raw was only seen from its content, which must not become that of another format: the
    /// next time its guest, who writes it, could have any file of the host's as its backing file. As in QEMU,
    /// such a write is refused; who says `raw` when opening the image has none refused.
    guard: Option<Mutex<()>>,
}

impl Raw {
    pub(crate) fn new(store: Store, guarded: bool) -> io::Result<Self> {
        let size = store.len()?.checked_next_multiple_of(512).unwrap_or(0);
        Ok(Self {
            store,
            size: AtomicU64::new(size),
            guard: guarded.then(Mutex::default),
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(crate) fn read(&self, offset: u64, buffer: &dyn Buffer, range: Range<usize>) -> io::Result<()> {
        self.store.read_buffer(offset, buffer, range)
    }

    pub(crate) fn write(&self, offset: u64, buffer: &dyn Buffer, range: Range<usize>) -> io::Result<()> {
        let _guard = match &self.guard {
            Some(guard) if offset < PROBED as u64 => {
                let guard = guard.lock();
                self.stays_raw(offset as usize, buffer, range.clone())?;
                Some(guard)
            }
            _ => None,
        };
        self.store.write_buffer(offset, buffer, range)
    }

    fn stays_raw(&self, offset: usize, buffer: &dyn Buffer, range: Range<usize>) -> io::Result<()> {
        let mut first = [0; PROBED];
        self.store.read(0, &mut first)?;
        let end = (offset + range.len()).min(PROBED);
        // A copy: what the guest changes behind this one's back must not get through.
        buffer.load(range.start, &mut first[offset..end]);
        match looks_like(&first) {
            "raw" => Ok(()),
            format => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "the guest's write would make the disk look like a {format} image; name the format raw to allow it"
                ),
            )),
        }
    }

    pub(crate) fn flush(&self) -> io::Result<()> {
        self.store.sync()
    }

    pub(crate) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.store.punch(offset, len) {
            // A file system without holes; nobody was promised any.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    pub(crate) fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        self.store.zero(offset, len, may_unmap)
    }

    pub(crate) fn direct(&self, offset: u64, len: u64, for_write: bool) -> io::Result<Option<Direct>> {
        let guarded = for_write && self.guard.is_some() && offset < PROBED as u64;
        if guarded || !for_write && offset + len > self.store.len()? {
            return Ok(None);
        }
        Ok(Some(Direct {
            file: self.store.file().clone(),
            at: offset,
            pin: Pin::none(),
        }))
    }

    pub(crate) fn extent(&self, offset: u64, len: u64) -> io::Result<Extent> {
        Ok(self.store.extent(offset, len))
    }

    pub(crate) fn resize(&self, size: u64) -> Result<(), OpenError> {
        if self.store.is_block_device() {
            return Err(OpenError::Argument(format!(
                "{0} is a block device, whose size is its own: change it with its tool, such as: lvextend {0}",
                self.store.path().display()
            )));
        }
        let done = self.store.set_len(size).and_then(|()| self.store.sync());
        done.map_err(OpenError::io("resize", self.store.path()))?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }
}
