//! Accepting the host's connections.

use crate::Agent;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, getpeername, listen, socket,
};
use rustix::net::{SocketFlags, accept_with};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// Sessions at a time.
const SESSIONS: usize = 256;
/// How long between two tries to do what should not have failed.
const PAUSE: Duration = Duration::from_millis(500);
/// The host's CID (VMADDR_CID_HOST).
const HOST: u32 = 2;
/// Any of ours (VMADDR_CID_ANY).
const ANY: u32 = u32::MAX;

/// A listening vsock.
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens on a port. Fails while the kernel knows no vsock: its module may not have been loaded yet.
    pub fn new(port: u32) -> io::Result<Self> {
        let fd = vsock()?;
        bind(fd.as_raw_fd(), &VsockAddr::new(ANY, port))?;
        listen(&fd, Backlog::new(128)?)?;
        Ok(Self(fd))
    }

    /// The next connection of the host. A program of the guest itself, which can reach the port through the
    /// loopback transport, would get root's rights: it is not answered.
    pub fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let stream = accept_with(&self.0, SocketFlags::CLOEXEC)?;
            let peer: VsockAddr = getpeername(stream.as_raw_fd())?;
            if peer.cid() == HOST {
                // Everything that is done with it works for sockets of all families.
                return Ok(stream.into());
            }
        }
    }
}

fn vsock() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// Connects to a port of the host.
pub fn dial_host(port: u32) -> io::Result<UnixStream> {
    let fd = vsock()?;
    connect(fd.as_raw_fd(), &VsockAddr::new(HOST, port))?;
    Ok(fd.into())
}

/// Answers the host for ever. `report` is told what does not work.
pub fn serve(agent: Agent, port: u32, mut report: impl FnMut(&str)) -> ! {
    let agent = Arc::new(agent);
    let open = Arc::new(AtomicUsize::new(0));
    let mut told = false;
    loop {
        let listener = match Listener::new(port) {
            Ok(listener) => listener,
            Err(e) => {
                if !std::mem::replace(&mut told, true) {
                    report(&format!("cannot listen for the host yet: {e}"));
                }
                thread::sleep(PAUSE);
                continue;
            }
        };
        told = false;
        report(&format!("listening on vsock port {port}"));
        while let Ok(stream) = listener.accept() {
            if open.fetch_add(1, SeqCst) >= SESSIONS {
                open.fetch_sub(1, SeqCst);
                continue;
            }
            let (agent, here) = (agent.clone(), open.clone());
            let session = move || {
                // The host knows what became of it.
                let _ = agent.session(stream);
                here.fetch_sub(1, SeqCst);
            };
            if thread::Builder::new()
                .name("session".into())
                .spawn(session)
                .is_err()
            {
                open.fetch_sub(1, SeqCst);
            }
        }
        // Out of descriptors, perhaps, or the device is gone: not for ever.
        thread::sleep(PAUSE);
    }
}
