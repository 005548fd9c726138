//! What a domain in the background writes to its console: kept, but not without bound.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes after which a new file is begun. Two are kept.
const LIMIT: u64 = 4 << 20;

/// The file being written.
pub struct Log {
    path: PathBuf,
    file: File,
    len: u64,
}

/// Where the older half is.
pub fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

impl Log {
    /// Goes on behind what is there.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file =
            file.with_context(|| format!("cannot write the console's output to {}", path.display()))?;
        let len = file.metadata()?.len();
        Ok(Self {
            path: path.into(),
            file,
            len,
        })
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.len >= LIMIT {
            fs::rename(&self.path, older(&self.path))?;
            self.file = File::options().create(true).append(true).open(&self.path)?;
            self.len = 0;
        }
        match self.file.write(bytes) {
            // A guest does not end because the host's disk is full; what it says then is not kept.
            Err(e) if e.kind() == io::ErrorKind::StorageFull => Ok(bytes.len()),
            Ok(n) => {
                self.len += n as u64;
                Ok(n)
            }
            Err(e) => Err(e),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_two_files_of_bounded_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let mut log = Log::open(&path).unwrap();
        for n in 0..300u32 {
            log.write_all(&vec![n as u8; 64 << 10]).unwrap();
        }
        let len = |p: &Path| fs::metadata(p).unwrap().len();
        assert!(len(&path) <= LIMIT + (64 << 10) && len(&older(&path)) <= LIMIT + (64 << 10));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert_eq!(fs::read(&path).unwrap().last(), Some(&(299u32 as u8)));
    }
}
