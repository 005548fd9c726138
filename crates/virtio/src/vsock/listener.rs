//! The Unix socket that programs of the host connect to.

use super::VsockError;
use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// The longest path: sun_path holds 108 bytes with the zero at its end, and `_` and a port may follow.
const LONGEST: usize = 107 - 11;
/// How often, and at what distance, it tries to be the only one in the directory.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// The socket. Dropping it removes its name.
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the name.
    name: (u64, u64),
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Connects to a socket without waiting for anyone.
pub fn dial(path: &Path) -> io::Result<UnixStream> {
    let socket = unix_socket()?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn name_of(path: &Path) -> io::Result<(u64, u64)> {
    let m = fs::symlink_metadata(path)?;
    Ok((m.dev(), m.ino()))
}

/// Keeps others that do the same out of a directory.
fn lock(path: &Path) -> io::Result<File> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new(".")))?;
    for _ in 0..TRIES {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => sleep(PAUSE),
            other => return other.map(|()| directory).map_err(Into::into),
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

impl Listener {
    /// Listens at `path`, for the owner only. What a process left there that is gone is replaced.
    pub fn new(path: PathBuf) -> Result<Self, VsockError> {
        let failed = |cause: io::Error| VsockError::Socket {
            path: path.clone(),
            cause,
        };
        if path.as_os_str().len() > LONGEST {
            return Err(VsockError::Long { path, max: LONGEST });
        }
        let _alone = lock(&path).map_err(failed)?;
        match fs::symlink_metadata(&path) {
            Ok(m) if m.file_type().is_socket() => match dial(&path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(&path).map_err(failed)?;
                }
                Ok(_) => return Err(VsockError::InUse(path)),
                // As many wait to be accepted as can.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(VsockError::InUse(path)),
                Err(e) => return Err(failed(e)),
            },
            Ok(_) => return Err(VsockError::Occupied(path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        let (socket, name) = open(&path).map_err(failed)?;
        Ok(Self { socket, path, name })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A connection that came in, if there is one.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.socket.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Connects to the socket of a port that the guest connects to.
    pub fn dial_port(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        dial(Path::new(&path))
    }
}

fn open(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let socket = unix_socket()?;
    // The name gets the mode that the socket has: there is no moment at which others could connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok((socket.into(), name_of(path)?))
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if name_of(&self.path).is_ok_and(|name| name == self.name) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
