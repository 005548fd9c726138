//! Writing one file, so that it is whole or not there.

use super::CopyError;
use super::entries::Item;
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Writes the entry's content, leaving holes where there are only zeroes.
pub fn fill<R: Read>(file: &File, item: &mut Item<'_, '_, R>, path: &Path) -> Result<(), CopyError> {
    const PAGE: usize = 4096;
    let failed = |e: io::Error| CopyError::file("write", path)(e);
    let mut buffer = [0; 16 * PAGE];
    let mut at = 0u64;
    while at < item.size {
        let mut have = 0;
        while have < buffer.len() {
            match item.content.read(&mut buffer[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(CopyError::Stream(e)),
            }
        }
        if have == 0 {
            return Err(CopyError::Stream(ErrorKind::UnexpectedEof.into()));
        }
        for (n, page) in buffer[..have].chunks(PAGE).enumerate() {
            if page.iter().any(|b| *b != 0) {
                file.write_all_at(page, at + (n * PAGE) as u64).map_err(failed)?;
            }
        }
        at += have as u64;
    }
    file.set_len(at).map_err(failed)
}

/// A file under a name of its own until it is whole.
pub struct Draft {
    parent: OwnedFd,
    name: String,
    pub file: File,
    published: bool,
}

impl Draft {
    /// An empty one in the directory.
    pub fn new(parent: OwnedFd) -> rustix::io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Relaxed);
            let name = format!(".donjon-copy-{}-{number}", std::process::id());
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(&parent, &name, flags, Mode::RUSR | Mode::WUSR) {
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
                Ok(file) => {
                    return Ok(Self {
                        parent,
                        name,
                        file: file.into(),
                        published: false,
                    });
                }
            }
        }
    }

    /// Gives it its name, in place of what had it.
    pub fn publish(mut self, name: &OsStr) -> rustix::io::Result<()> {
        renameat(&self.parent, &self.name, &self.parent, name)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            let _ = unlinkat(&self.parent, &self.name, AtFlags::empty());
        }
    }
}
