//! A directory of content, by digest: `blobs/sha256/HEX`. What is there is complete and was checked. What is being
//! fetched is in `partial/HEX`; whoever holds that file's lock fetches. After a kill at any moment the store is valid.

mod partial;

pub(crate) use partial::{Claim, Partial};

use crate::digest::Hasher;
use crate::{Digest, Error};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A store. Any number of processes may use it at once.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The one in `root`, which is made if it does not exist.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let store = Self { root: root.into() };
        for directory in [store.blobs(), store.partial()] {
            fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
        }
        Ok(store)
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is there.
    pub fn has(&self, digest: Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Opens something for reading.
    pub(crate) fn open(&self, digest: Digest) -> Result<File, Error> {
        let path = self.path(digest);
        File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::Missing { digest },
            _ => Error::io("open", &path)(e),
        })
    }

    /// Reads something of at most `limit` bytes, and checks it.
    pub(crate) fn read(&self, digest: Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.open(digest)?.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(Error::io("read", &self.path(digest)))?;
        match Digest::of(&bytes) == digest {
            true => Ok(bytes),
            false => Err(self.damaged(digest)),
        }
    }

    /// Checks something against its digest; what is damaged is removed.
    pub fn verify(&self, digest: Digest) -> Result<(), Error> {
        let mut hasher = Hasher::default();
        let read = hasher.add_all(&mut self.open(digest)?);
        read.map_err(Error::io("read", &self.path(digest)))?;
        match hasher.finish() == digest {
            true => Ok(()),
            false => Err(self.damaged(digest)),
        }
    }

    /// Removes everything that is not in `keep`, and what broken downloads left. What is being fetched stays, and
    /// so does what is open. Returns how many bytes that was.
    ///
    /// An image that another process is just pulling is not in its `keep`: the caller sees to that.
    pub fn retain(&self, keep: &HashSet<Digest>) -> Result<u64, Error> {
        let mut freed = 0;
        let directory = self.blobs();
        for entry in fs::read_dir(&directory).map_err(Error::io("read", &directory))? {
            let entry = entry.map_err(Error::io("read", &directory))?;
            let name = entry.file_name();
            let digest = Digest::from_str(&format!("sha256:{}", name.to_string_lossy()));
            if digest.is_ok_and(|d| !keep.contains(&d)) {
                freed += entry.metadata().map_or(0, |m| m.len());
                fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
            }
        }
        Ok(freed + partial::sweep(&self.partial())?)
    }

    /// A nameless file for what is only needed for a while.
    pub(crate) fn scratch(&self) -> Result<File, Error> {
        tempfile::tempfile_in(&self.root).map_err(Error::io("create a file in", &self.root))
    }

    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn damaged(&self, digest: Digest) -> Error {
        // What cannot be removed is found damaged the next time.
        let _ = fs::remove_file(self.path(digest));
        Error::Damaged { digest }
    }
}
