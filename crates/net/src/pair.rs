//! Two backends connected to each other.

use crate::backend::{BUDGET, Backend, DropCounts, Drops, Port, check_queues, count, only};
use crate::header::{MAX_PACKET, MIN_PACKET};
use crate::inbox::{Inbox, Received};
use crate::offloads::Offloads;
use crate::packet::{Gather, Scatter};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// One end of a cable, the other of which is in the same process. What is sent into one end comes out of the
/// other.
pub struct Pair {
    port: Arc<End>,
}

struct End {
    socket: OwnedFd,
    accepted: AtomicU8,
    inbox: Mutex<Inbox>,
    drops: DropCounts,
}

impl Pair {
    /// Both ends.
    pub fn new() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self::end(a), Self::end(b)))
    }

    fn end(socket: OwnedFd) -> Self {
        Self {
            port: Arc::new(End {
                socket,
                accepted: AtomicU8::new(0),
                inbox: Mutex::default(),
                drops: DropCounts::default(),
            }),
        }
    }
}

impl Backend for Pair {
    fn offloads(&self) -> Offloads {
        Offloads::ALL
    }

    fn set_offloads(&self, accepted: Offloads) -> io::Result<()> {
        self.port.accepted.store(accepted.bits(), Relaxed);
        Ok(())
    }

    fn queues(&self) -> u16 {
        1
    }

    fn set_queues(&self, count: u16) -> io::Result<()> {
        check_queues(count, 1)
    }

    fn queue(&self, index: u16) -> io::Result<Arc<dyn Port>> {
        only(index, &self.port)
    }

    fn link(&self) -> bool {
        true
    }

    fn drops(&self) -> Drops {
        self.port.drops.read()
    }
}

impl Port for End {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&self, packet: &dyn Gather) -> io::Result<()> {
        if !(MIN_PACKET..=MAX_PACKET).contains(&packet.len()) {
            count(&self.drops.malformed);
        } else if packet.write_to(0..packet.len(), self.fd()).is_err() {
            // It is full, or the other end is gone.
            count(&self.drops.sent);
        }
        Ok(())
    }

    fn receive(&self, into: &mut dyn Scatter) -> io::Result<usize> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(len) = inbox.segment(into, &self.drops) {
            return Ok(len);
        }
        for _ in 0..BUDGET {
            let accepted = Offloads::from_bits(self.accepted.load(Relaxed));
            match inbox.receive(self.fd(), accepted, into, &self.drops)? {
                Received::Packet(len, _) => return Ok(len),
                Received::Dropped => {}
                // Then nothing will come any more.
                Received::End => return Err(ErrorKind::UnexpectedEof.into()),
            }
        }
        Err(ErrorKind::WouldBlock.into())
    }
}
