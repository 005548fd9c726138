//! Content on its way into the store.

use super::Store;
use crate::digest::Hasher;
use crate::error::is_full;
use crate::{Digest, Error};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What became of asking for something.
pub(crate) enum Claim {
    /// It is in the store.
    Present,
    /// Another process fetches it.
    Busy,
    /// It is the caller's to fetch.
    Mine(Partial),
}

/// A file that is being filled, locked.
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    digest: Digest,
    hasher: Hasher,
    done: u64,
}

impl Store {
    /// Asks for something: to be used, waited for or fetched.
    pub(crate) fn claim(&self, digest: Digest) -> Result<Claim, Error> {
        let path = self.partial().join(digest.hex());
        loop {
            if self.has(digest) {
                return Ok(Claim::Present);
            }
            let file = File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path);
            let file = file.map_err(Error::io("create", &path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Claim::Busy),
                Err(e) => return Err(Error::io("lock", &path)(e.into())),
            }
            // Who had it may have finished or removed it in between.
            if is_at(&file, &path) {
                let mut partial = Partial {
                    file,
                    path,
                    target: self.path(digest),
                    digest,
                    hasher: Hasher::default(),
                    done: 0,
                };
                let done = partial.hasher.add_all(&mut partial.file);
                partial.done = done.map_err(Error::io("read", &partial.path))?;
                return Ok(Claim::Mine(partial));
            }
        }
    }
}

impl Partial {
    /// Bytes that are there, of this attempt or an earlier one.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Err(e) = self.file.write_all(bytes) {
            // The rest of a full disk is somebody's.
            if is_full(&e) {
                let _ = fs::remove_file(&self.path);
            }
            return Err(Error::io("write", &self.path)(e));
        }
        self.hasher.add(bytes);
        self.done += bytes.len() as u64;
        Ok(())
    }

    /// Begins anew.
    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        let emptied = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(Error::io("empty", &self.path))?;
        self.hasher = Hasher::default();
        self.done = 0;
        Ok(())
    }

    /// Nobody will go on with this.
    pub(crate) fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Puts it into the store if it is what it should be, durably. Returns whether it is.
    pub(crate) fn finish(self) -> Result<bool, Error> {
        let Self {
            file,
            path,
            target,
            digest,
            hasher,
            ..
        } = self;
        if hasher.finish() != digest {
            let _ = fs::remove_file(&path);
            return Ok(false);
        }
        file.sync_all().map_err(|e| {
            if is_full(&e) {
                let _ = fs::remove_file(&path);
            }
            Error::io("write", &path)(e)
        })?;
        fs::rename(&path, &target).map_err(Error::io("create", &target))?;
        let directory = target.parent().unwrap_or(&target);
        let synced = File::open(directory).and_then(|d| d.sync_all());
        synced.map_err(Error::io("write", directory))?;
        Ok(true)
    }
}

/// Removes files that nobody fills.
pub(super) fn sweep(directory: &Path) -> Result<u64, Error> {
    let mut freed = 0;
    for entry in fs::read_dir(directory).map_err(Error::io("read", directory))? {
        let path = entry.map_err(Error::io("read", directory))?.path();
        let Ok(file) = File::open(&path) else {
            continue;
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(&file, &path) {
            freed += file.metadata().map_or(0, |m| m.len());
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(freed)
}

/// Whether a path still leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(mine), Ok(there)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (mine.dev(), mine.ino()) == (there.dev(), there.ino())
}
