//! What every backend can do.

use crate::offloads::Offloads;
use crate::packet::{Gather, Scatter};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a network interface's packets go to and come from.
pub trait Backend: Send + Sync {
    /// What the guest may leave undone in what it sends (VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_*), and what it
    /// may offer to take undone (VIRTIO_NET_F_GUEST_*).
    fn offloads(&self) -> Offloads;

    /// What the guest's driver has agreed to take undone; nothing until this is called, and after a reset of the
    /// device nothing again.
    fn set_offloads(&self, accepted: Offloads) -> io::Result<()>;

    /// How many pairs of queues there are.
    fn queues(&self) -> u16;

    /// Uses the first `count` ports only (VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET), at the beginning one. The others must
    /// not be waited for meanwhile, nor sent to.
    fn set_queues(&self, count: u16) -> io::Result<()>;

    /// One pair of queues, from 0.
    fn queue(&self, index: u16) -> io::Result<Arc<dyn Port>>;

    /// Whether there is anything at the other end (VIRTIO_NET_S_LINK_UP). It stays as it is.
    fn link(&self) -> bool;

    /// What got lost so far.
    fn drops(&self) -> Drops;
}

/// One pair of queues of a [`Backend`]. Any thread may send, and any receive.
pub trait Port: Send + Sync {
    /// Readable when there may be something to [receive](Self::receive).
    ///
    /// Parts of a packet that had to be cut up are received one by one, and of those behind the first this
    /// does not tell. So receive until there is nothing, or go on when there is room again without waiting here.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Sends one packet with its header, or drops it as networks do when there is no room for it, when nobody is
    /// there, or when its header does not fit it.
    ///
    /// Never blocks. An error means that the backend is broken and stays so.
    fn send(&self, packet: &dyn Gather) -> io::Result<()>;

    /// Receives one packet with its header, in which `num_buffers` is 1, and says how long it is.
    ///
    /// If `into` has room for [`ROOM`](crate::ROOM) bytes, packets go straight into it; for mergeable
    /// receive buffers, use as many as that takes and give those back that stay empty. Otherwise packets take a
    /// way round, and those that do not fit are dropped. What is left behind the packet's end may have been
    /// written to.
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is nothing now. Any other error means that the backend
    /// is broken and stays so.
    fn receive(&self, into: &mut dyn Scatter) -> io::Result<usize>;
}

/// Packets that did not arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Drops {
    /// Sent, but there was no room, or the network was down.
    pub sent: u64,
    /// Received, but longer than what the guest had room for.
    pub received: u64,
    /// In either direction, with a header that did not fit the packet.
    pub malformed: u64,
}

/// Times that [`Port::receive`] looks for a packet before it says that there is none, while its descriptor stays
/// readable: so that whoever sends nothing but nonsense does not keep the receiver's thread.
pub(crate) const BUDGET: usize = 64;

/// [`Drops`] as they are counted.
#[derive(Debug, Default)]
pub(crate) struct DropCounts {
    pub sent: AtomicU64,
    pub received: AtomicU64,
    pub malformed: AtomicU64,
}

impl DropCounts {
    pub fn read(&self) -> Drops {
        Drops {
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
        }
    }
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// The only queue of a backend that has one.
pub(crate) fn only(index: u16, port: &Arc<impl Port + 'static>) -> io::Result<Arc<dyn Port>> {
    match index {
        0 => Ok(port.clone()),
        _ => Err(no_queue(index, 1)),
    }
}

/// There is no such queue.
pub(crate) fn no_queue(index: u16, count: u16) -> io::Error {
    let message = format!("there is no queue pair {index}: the backend has {count}");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// The number of queue pairs to use is one that there is.
pub(crate) fn check_queues(count: u16, max: u16) -> io::Result<()> {
    if (1..=max).contains(&count) {
        return Ok(());
    }
    let message = format!("{count} queue pairs cannot be used: the backend has {max}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}
