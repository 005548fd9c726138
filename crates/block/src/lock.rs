//! Locks on images that QEMU and donjon understand alike.
//!
//! As in QEMU (block/file-posix.c): whoever does something to an image has a shared lock on byte 100 plus the
//! number of what he does, and whoever does not want others to do something has one on byte 200 plus its number.
//! Both are taken first and looked for in the other's place then, so that of two who come at once at least one
//! sees the other. The locks belong to the open file (fcntl(2), open file description locks), and go with it.

use crate::holder::{self, Holder};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

const DOES: i64 = 100;
const FORBIDS: i64 = 200;
/// What is done, by number (QEMU's BLK_PERM_*).
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;
/// How long a process that was killed may keep its locks: the kernel closes files of transfers that it still has in
/// its hands (io_uring) after the process has gone.
const AFTERLIFE: Duration = Duration::from_secs(5);

/// Why an image is not ours.
#[derive(Debug)]
pub(crate) enum LockError {
    Busy(Option<Holder>),
    Io(io::Error),
}

fn range(kind: i32, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

/// Claims a file for reading, or for writing and resizing as well. Others may only read it meanwhile. Lasts as long
/// as the open file does. A file system without such locks is no obstacle, and locks that no process has are waited
/// for.
pub(crate) fn lock(file: &File, write: bool) -> Result<(), LockError> {
    let start = Instant::now();
    loop {
        match claim(file, write) {
            Err(LockError::Busy(None)) if start.elapsed() < AFTERLIFE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

fn claim(file: &File, write: bool) -> Result<(), LockError> {
    let does: &[i64] = if write { &[READ, WRITE, RESIZE] } else { &[READ] };
    let forbids = [WRITE, RESIZE];
    let bytes = || does.iter().map(|n| DOES + n).chain(forbids.map(|n| FORBIDS + n));
    for byte in bytes() {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, byte))) {
            Ok(_) => {}
            Err(e @ (Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS)) => {
                tracing::warn!(
                    "this file system has no locks ({e}): see to it that nobody else uses the image"
                );
                return Ok(());
            }
            Err(Errno::EAGAIN | Errno::EACCES) => return Err(busy(file, byte)),
            Err(e) => return Err(LockError::Io(e.into())),
        }
    }
    let opposite = does.iter().map(|n| FORBIDS + n).chain(forbids.map(|n| DOES + n));
    for byte in opposite {
        let mut found = range(libc::F_WRLCK, byte);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(|e| LockError::Io(e.into()))?;
        if i32::from(found.l_type) != libc::F_UNLCK {
            // The file may stay open: it does not claim anything.
            for byte in bytes() {
                let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, byte)));
            }
            return Err(busy(file, byte));
        }
    }
    Ok(())
}

fn busy(file: &File, byte: i64) -> LockError {
    let found = file.metadata().ok();
    LockError::Busy(found.and_then(|m| holder::find(&m, byte as u64..=byte as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn open(path: &Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn readers_share_and_writers_do_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (a, b, c) = (open(file.path()), open(file.path()), open(file.path()));
        lock(&a, false).unwrap();
        lock(&b, false).unwrap();
        let Err(LockError::Busy(Some(holder))) = lock(&c, true) else {
            panic!()
        };
        assert_eq!(holder.pid, std::process::id());
        assert_eq!(holder.to_string(), "this process");
        drop(a);
        assert!(matches!(lock(&c, true), Err(LockError::Busy(_))));
        drop(b);
        lock(&c, true).unwrap();
        let d = open(file.path());
        assert!(matches!(lock(&d, false), Err(LockError::Busy(_))));
        assert!(matches!(lock(&d, true), Err(LockError::Busy(_))));
        drop(c);
        lock(&d, true).unwrap();
    }
}
