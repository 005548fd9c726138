//! A file that tells perf(1) the names of code made at run time: `/tmp/perf-PID.map`, a line `START SIZE NAME`
//! for each piece, in hexadecimal (Linux tools/perf/Documentation/jit-interface.txt).
//!
//! The place is fixed and open to everyone, so the file is made anew and a link is never followed.

use rustix::fs::{Mode, OFlags};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long lines may wait in memory while more come.
const HOLD: Duration = Duration::from_millis(100);

/// The file.
#[derive(Debug)]
pub struct PerfMap {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: BufWriter<File>,
    flushed: Instant,
    error: Option<io::Error>,
}

/// Why it cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the perf map {path}: {source}; look at what is there: ls -l {path}", path = path.display())]
pub struct PerfMapError {
    path: PathBuf,
    source: io::Error,
}

impl PerfMap {
    /// The one of this process, empty, where perf looks for it.
    pub fn of_this_process() -> Result<Self, PerfMapError> {
        Self::create(PathBuf::from(format!("/tmp/perf-{}.map", std::process::id())))
    }

    fn create(path: PathBuf) -> Result<Self, PerfMapError> {
        let file = make(&path).map_err(|source| PerfMapError {
            path: path.clone(),
            source,
        })?;
        let state = State {
            file: BufWriter::with_capacity(64 << 10, file),
            flushed: Instant::now(),
            error: None,
        };
        Ok(Self {
            path,
            state: Mutex::new(state),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names the `size` bytes at `start`.
    pub fn add(&self, start: u64, size: u64, name: fmt::Arguments<'_>) {
        self.change(|state| {
            writeln!(state.file, "{start:x} {size:x} {name}")?;
            if state.flushed.elapsed() >= HOLD {
                state.file.flush()?;
                state.flushed = Instant::now();
            }
            Ok(())
        });
    }

    /// Writes out what is still in memory; the first error since the file was made.
    pub fn finish(&self) -> Result<(), PerfMapError> {
        self.change(|state| state.file.flush());
        match self.state().error.take() {
            Some(source) => Err(PerfMapError {
                path: self.path.clone(),
                source,
            }),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// After an error there is nothing more to write.
    fn change(&self, with: impl FnOnce(&mut State) -> io::Result<()>) {
        let mut state = self.state();
        if state.error.is_none()
            && let Err(error) = with(&mut state)
        {
            tracing::warn!(%error, path = %self.path.display(), "perf map");
            state.error = Some(error);
        }
    }
}

/// Makes a file that was not there; one that an earlier process of the same number and user left may go.
fn make(path: &Path) -> io::Result<File> {
    match rustix::fs::lstat(path) {
        Ok(found) if found.st_uid == rustix::process::geteuid().as_raw() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::other("it belongs to another user")),
        Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(
        path,
        flags,
        Mode::from_raw_mode(0o600),
    )?))
}

impl donjon_engine_soft::CodeTrace for PerfMap {
    fn made(&self, start: u64, size: u64, name: fmt::Arguments<'_>) {
        self.add(start, size, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_perf_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("perf-1.map");
        std::fs::write(&path, "old").unwrap();
        let map = PerfMap::create(path.clone()).unwrap();
        map.add(0x7f00_1234_5000, 0x1a0, format_args!("guest:{}", "kernel"));
        map.add(16, 1, format_args!("b"));
        map.finish().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "7f0012345000 1a0 guest:kernel\n10 1 b\n");
    }

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, precious) = (directory.path().join("map"), directory.path().join("precious"));
        std::fs::write(&precious, "mine").unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        let map = PerfMap::create(path.clone()).unwrap();
        map.add(1, 1, format_args!("a"));
        map.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "mine");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn what_cannot_be_removed_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let error = PerfMap::create(directory.path().to_owned())
            .unwrap_err()
            .to_string();
        assert!(error.contains("ls -l"), "{error}");
    }

    #[test]
    fn a_full_disk_is_told_at_the_end() {
        let file = File::options().write(true).open("/dev/full").unwrap();
        let map = PerfMap {
            path: "/dev/full".into(),
            state: Mutex::new(State {
                file: BufWriter::new(file),
                flushed: Instant::now(),
                error: None,
            }),
        };
        map.add(1, 1, format_args!("a"));
        assert!(map.finish().is_err());
    }
}
