//! One host file of an image: transfers, holes, and what a failed sync means.

use crate::buffer::{Buffer, read_or_zero};
use crate::image::Extent;
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Zeroes are written in pieces of this many bytes where the file system has no better way.
const ZEROES: usize = 256 << 10;

/// A file that belongs to an image.
pub(crate) struct Store {
    file: Arc<File>,
    path: PathBuf,
    block_device: bool,
    /// A sync failed: the kernel may have dropped what it could not write, and says so only once.
    lost: AtomicBool,
    #[cfg(test)]
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

/// What happens to a file, for tests that stop or fail it there.
#[cfg(test)]
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    SetLen(u64),
    Sync,
}

#[cfg(test)]
pub(crate) trait Observer: Send + Sync {
    /// Called before it is done; an error is returned instead of doing it.
    fn event(&self, event: Event) -> io::Result<()>;
}

impl Store {
    pub(crate) fn new(file: File, path: &Path) -> io::Result<Self> {
        let block_device = file.metadata()?.file_type().is_block_device();
        Ok(Self {
            file: Arc::new(file),
            path: path.to_owned(),
            block_device,
            lost: AtomicBool::new(false),
            #[cfg(test)]
            observer: None,
        })
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// Its length. That of a block device is where its end can be sought.
    pub(crate) fn len(&self) -> io::Result<u64> {
        if self.block_device {
            return (&*self.file).seek(SeekFrom::End(0));
        }
        Ok(self.file.metadata()?.len())
    }

    /// Fills `out`; zeroes past the end. Returns how much was there.
    pub(crate) fn read(&self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        read_or_zero(&self.file, out, at)
    }

    pub(crate) fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.observe(|| Event::Write(at, data.to_vec()))?;
        self.file.write_all_at(data, at)
    }

    pub(crate) fn read_buffer(&self, at: u64, buffer: &dyn Buffer, range: Range<usize>) -> io::Result<()> {
        buffer.read_file(range, &self.file, at)
    }

    pub(crate) fn write_buffer(&self, at: u64, buffer: &dyn Buffer, range: Range<usize>) -> io::Result<()> {
        #[cfg(test)]
        self.observe(|| {
            let mut data = vec![0; range.len()];
            buffer.load(range.start, &mut data);
            Event::Write(at, data)
        })?;
        buffer.write_file(range, &self.file, at)
    }

    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.observe(|| Event::SetLen(len))?;
        self.file.set_len(len)
    }

    /// Gives a range's room back to the file system. It reads as zeroes afterwards, if this succeeds.
    pub(crate) fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.observe(|| Event::Zero(at, len))?;
        self.fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len)
    }

    /// Whether the file has data at an offset, and how far that goes.
    pub(crate) fn extent(&self, offset: u64, len: u64) -> Extent {
        let file = &*self.file;
        match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(at) if at > offset => Extent {
                data: false,
                len: len.min(at - offset),
            },
            Ok(_) => {
                let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(offset)).unwrap_or(u64::MAX);
                Extent {
                    data: true,
                    len: len.min(end.saturating_sub(offset).max(1)),
                }
            }
            // No data up to the end.
            Err(rustix::io::Errno::NXIO) => Extent { data: false, len },
            // Nobody can tell.
            Err(_) => Extent { data: true, len },
        }
    }

    /// Makes room for a range without changing what it reads as.
    pub(crate) fn reserve(&self, at: u64, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.observe(|| Event::SetLen(at + len))?;
        self.fallocate(FallocateFlags::empty(), at, len)
    }

    /// Makes a range read as zeroes; `unmap` lets go of its room. The file grows if it ends before.
    pub(crate) fn zero(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        let Some(end) = at.checked_add(len).filter(|_| len > 0) else {
            return Ok(());
        };
        let old = self.len()?;
        let beyond = !self.block_device && old <= at;
        if beyond || unmap && self.punch(at, len).is_ok() {
            // Not by setting the length, which could cut off what another thread writes at the end.
            return match !self.block_device && end > old {
                true => self.write(end - 1, &[0]),
                false => Ok(()),
            };
        }
        #[cfg(test)]
        self.observe(|| Event::Zero(at, len))?;
        match self.fallocate(FallocateFlags::ZERO_RANGE, at, len) {
            Err(e) if not_supported(&e) => self.write_zeroes(at, len),
            other => other,
        }
    }

    fn write_zeroes(&self, mut at: u64, len: u64) -> io::Result<()> {
        let zeroes = vec![0; ZEROES.min(usize::try_from(len).unwrap_or(ZEROES))];
        let end = at + len;
        while at < end {
            let n = (end - at).min(zeroes.len() as u64);
            self.file.write_all_at(&zeroes[..n as usize], at)?;
            at += n;
        }
        Ok(())
    }

    fn fallocate(&self, flags: FallocateFlags, at: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        loop {
            match rustix::fs::fallocate(&*self.file, flags, at, len) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Returns when everything written before has reached the disk (fdatasync(2)).
    ///
    /// Once that failed it keeps failing: the kernel may have thrown away what it could not write, so that a
    /// second try would succeed without it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        if self.lost.load(Ordering::Acquire) {
            return Err(io::Error::other(format!(
                "{} could not be written to its disk before; stop what uses it, then look: donjon disk check {0}",
                self.path.display()
            )));
        }
        #[cfg(test)]
        self.observe(|| Event::Sync)?;
        self.file
            .sync_data()
            .inspect_err(|_| self.lost.store(true, Ordering::Release))
    }

    #[cfg(test)]
    fn observe(&self, event: impl FnOnce() -> Event) -> io::Result<()> {
        match &self.observer {
            Some(observer) => observer.event(event()),
            None => Ok(()),
        }
    }
}

fn not_supported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV)
    )
}
