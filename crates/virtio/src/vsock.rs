//! Socket device (virtio 1.2 §5.10): stream sockets between the guest and programs of the host.
//!
//! The host's ends are Unix sockets, in the way that Firecracker and Cloud Hypervisor have them. A guest that
//! connects to port `P` of CID 2 (the host) is connected to the socket `PATH_P`. A program of the host that
//! connects to `PATH` and sends `CONNECT P` and a newline is connected to the guest's port `P` as soon as it reads
//! `OK` and a port number in a line.
//!
//! Connections do not survive that a domain is restored: the guest's programs find them reset.

mod connection;
mod handshake;
mod listener;
mod packet;
mod service;
mod sockets;
#[cfg(test)]
mod tests;

use crate::device::{Device, Notifier, kind, read_bytes};
use crate::queue::{Queue, QueueState};
use crate::service::Server;
use donjon_devices::state::Saved;
use donjon_devices::sync::Lock;
use donjon_devices::{Migrate, Record, RestoreError};
use listener::Listener;
use serde::{Deserialize, Serialize};
use service::Switch;
use sockets::Sockets;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

/// The first CID that a guest can have, and the last.
pub const CIDS: std::ops::RangeInclusive<u64> = 3..=0xffff_fffe;
/// Entries of each queue.
const QUEUE_SIZE: u16 = 128;
/// VIRTIO_VSOCK_F_STREAM.
const STREAM: u64 = 1;

/// Why there can be no such device.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// Not a guest's CID.
    #[error("a guest cannot have the CID {0}; use one from 3 to 4294967294")]
    Cid(u64),
    /// Longer than the address of a Unix socket.
    #[error("the socket path {path:?} is longer than {max} bytes; use a shorter one")]
    Long {
        /// The path.
        path: PathBuf,
        /// What is possible.
        max: usize,
    },
    /// Somebody listens there.
    #[error("a running domain, or another program, listens at {0:?}; stop it, or use another path")]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{0:?} is not a socket; remove it, or use another path")]
    Occupied(PathBuf),
    /// The host refused.
    #[error("cannot listen at {path:?}: {cause}")]
    Socket {
        /// The path.
        path: PathBuf,
        /// What it said.
        cause: std::io::Error,
    },
}

/// The device.
pub struct Vsock {
    cid: u64,
    listener: Arc<Listener>,
    server: Lock<Option<Server<Switch>>>,
    notifier: OnceLock<Arc<dyn Notifier>>,
    transport_reset: Arc<AtomicBool>,
}

/// What is saved of it.
#[derive(Serialize, Deserialize)]
struct SavedVsock {
    cid: u64,
}

impl Saved for SavedVsock {
    const KIND: &'static str = "virtio-vsock";
    const VERSION: u16 = 1;
}

impl Vsock {
    /// A device for the guest with this CID, whose host side listens at `path`.
    pub fn new(cid: u64, path: impl Into<PathBuf>) -> Result<Arc<Self>, VsockError> {
        if !CIDS.contains(&cid) {
            return Err(VsockError::Cid(cid));
        }
        Ok(Arc::new(Self {
            cid,
            listener: Arc::new(Listener::new(path.into())?),
            server: Lock::default(),
            notifier: OnceLock::new(),
            transport_reset: Arc::default(),
        }))
    }

    /// Another device with the same socket, for the machine after a reset.
    pub fn anew(&self) -> Arc<Self> {
        Arc::new(Self {
            cid: self.cid,
            listener: self.listener.clone(),
            server: Lock::default(),
            notifier: OnceLock::new(),
            transport_reset: Arc::default(),
        })
    }

    /// The guest's CID.
    pub fn cid(&self) -> u64 {
        self.cid
    }

    /// Where its host side listens.
    pub fn path(&self) -> &Path {
        self.listener.path()
    }
}

impl Device for Vsock {
    fn kind(&self) -> u16 {
        kind::VSOCK
    }

    fn features(&self) -> u64 {
        STREAM
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    fn connect(&self, notifier: Arc<dyn Notifier>) {
        // A transport connects once.
        let _ = self.notifier.set(notifier);
    }

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        read_bytes(&self.cid.to_le_bytes(), offset, out);
    }

    fn start(&self, _: u64) {
        let server = Sockets::new(&self.listener)
            .map(|s| Switch::new(self.cid, s, self.transport_reset.clone()))
            .and_then(|s| Server::start("vsock", s));
        match server {
            Ok(server) => *self.server.lock() = Some(server),
            Err(e) => {
                tracing::error!("vsock cannot be served: {e}");
                if let Some(notifier) = self.notifier.get() {
                    notifier.needs_reset();
                }
            }
        }
    }

    fn start_queue(&self, index: u16, queue: Queue) {
        if let Some(server) = &*self.server.lock() {
            server.with(|s| s.queues.get_mut(usize::from(index)).map(|q| *q = Some(queue)));
        }
    }

    fn stop_queue(&self, index: u16) -> Option<QueueState> {
        let server = self.server.lock();
        let queue = server
            .as_ref()?
            .with(|s| s.queues.get_mut(usize::from(index))?.take())??;
        Some(queue.state())
    }

    fn notify(&self, _: u16) {
        if let Some(server) = &*self.server.lock() {
            server.notify();
        }
    }

    fn reset(&self) {
        let server = self.server.lock().take();
        drop(server);
        self.transport_reset.store(false, SeqCst);
    }

    fn migrate(&self) -> Migrate {
        SavedVsock { cid: self.cid }.save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let saved = SavedVsock::open(record)?;
        if !CIDS.contains(&saved.cid) {
            return Err(SavedVsock::damaged(format!("no guest has the CID {}", saved.cid)));
        }
        // Even with the same CID: the connections are gone. The guest asks for its CID again.
        self.transport_reset.store(true, SeqCst);
        Ok(())
    }
}
