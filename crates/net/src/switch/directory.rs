//! How ports find each other.

use super::{MAX_PORTS, SwitchError};
use crate::name::Name;
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, flock, fstat, open, unlinkat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt,
};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long others may hold the lock, under which nobody does anything that takes long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes under way to one peer, as far as the host allows (net.core.wmem_max).
const IN_FLIGHT: usize = 1 << 20;
/// Connections that a peer has not taken yet, as far as the host allows (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// A switch's directory, with a socket in it for each port.
pub struct Directory {
    fd: OwnedFd,
}

/// A port that has joined.
pub struct Joined {
    /// Where those connect that come later.
    pub listener: OwnedFd,
    /// Those that were there.
    pub peers: Vec<OwnedFd>,
}

impl Directory {
    /// Opens it; it is made if need be.
    pub fn open(path: &Path) -> Result<Self, SwitchError> {
        let failed = |e: io::Error| SwitchError::Directory(path.into(), e);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let stat = fstat(&fd).map_err(|e| failed(e.into()))?;
        // Whoever could put a socket there would be in the network.
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(SwitchError::NotPrivate(path.into()));
        }
        Ok(Self { fd })
    }

    /// Makes a port, connected to all others, and sweeps what those left that were killed.
    ///
    /// All happens under a lock, so of two ports always one is there first and the other finds it.
    pub fn join(&self, path: &Path, port: &Name) -> Result<Joined, SwitchError> {
        let failed = |e: Errno| SwitchError::Directory(path.into(), e.into());
        let _lock = self.lock(path)?;
        let mut peers = vec![];
        for name in self.names().map_err(failed)? {
            match self.connect(&name) {
                Ok(_) if name == *port => return Err(SwitchError::Taken(port.clone())),
                Ok(_) if peers.len() + 1 >= MAX_PORTS => return Err(SwitchError::Full(path.into())),
                Ok(socket) => peers.push(socket),
                // Nobody listens, and under the lock nobody is about to: its process is gone.
                Err(Errno::CONNREFUSED) => {
                    unlinkat(&self.fd, name.as_str(), AtFlags::empty()).map_err(failed)?
                }
                Err(Errno::NOENT) => {}
                Err(Errno::AGAIN) => tracing::warn!(
                    "port {name} of switch {} takes no more connections, as if its domain were stopped; it cannot \
                     be reached from port {port}",
                    path.display()
                ),
                Err(e) => return Err(failed(e)),
            }
        }
        let listener = socket().map_err(failed)?;
        bind(&listener, &self.address(port).map_err(failed)?).map_err(failed)?;
        listen(&listener, BACKLOG).map_err(failed)?;
        Ok(Joined { listener, peers })
    }

    /// Removes a port's socket, which nobody listens on any more.
    pub fn leave(&self, port: &Name) {
        // What stays is swept by the next one.
        let _ = unlinkat(&self.fd, port.as_str(), AtFlags::empty());
    }

    fn lock(&self, path: &Path) -> Result<OwnedFd, SwitchError> {
        let failed = |e: Errno| SwitchError::Directory(path.into(), e.into());
        // A description of its own, so that the lock goes with it.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty()).map_err(failed)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(fd),
                Err(Errno::AGAIN | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(Errno::AGAIN) => return Err(SwitchError::Locked(path.into())),
                Err(e) => return Err(failed(e)),
            }
        }
    }

    fn names(&self) -> rustix::io::Result<Vec<Name>> {
        let entries = Dir::read_from(&self.fd)?;
        let names = entries.map(|e| Ok(e?.file_name().to_str().ok().and_then(|n| n.parse().ok())));
        names.filter_map(Result::transpose).collect()
    }

    fn connect(&self, name: &Name) -> rustix::io::Result<OwnedFd> {
        let socket = socket()?;
        connect(&socket, &self.address(name)?)?;
        Ok(socket)
    }

    /// Where a port's socket is. The way through /proc is never longer than an address may be.
    fn address(&self, name: &Name) -> rustix::io::Result<SocketAddrUnix> {
        SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd()))
    }
}

/// One that keeps packets apart, keeps what is under way to one peer apart from what is to others, and tells
/// when its peer is gone.
fn socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    widen(&socket)?;
    Ok(socket)
}

/// Makes room for what is under way.
pub fn widen(socket: &OwnedFd) -> rustix::io::Result<()> {
    sockopt::set_socket_send_buffer_size(socket, IN_FLIGHT)
}
