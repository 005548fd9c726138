//! What waits for the guest.

use super::token::Token;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Finished packets that wait, at most: the guest drops those that it does not fetch.
const PACKETS: usize = 512;

/// Packets that are finished, and who would make one: data stays in the host's sockets until the guest has room
/// for it.
pub struct Outbox {
    event: OwnedFd,
    signalled: bool,
    packets: VecDeque<Vec<u8>>,
    ready: VecDeque<Token>,
}

/// The next packet.
pub enum Next {
    /// Is this.
    Packet(Vec<u8>),
    /// Comes from there, unless there is nothing any more.
    From(Token),
}

impl Outbox {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            signalled: false,
            packets: VecDeque::new(),
            ready: VecDeque::new(),
        })
    }

    /// Another descriptor of what is readable while something waits.
    pub fn event(&self) -> io::Result<OwnedFd> {
        self.event.as_fd().try_clone_to_owned()
    }

    /// Adds a packet; whether there was room.
    pub fn push(&mut self, packet: Vec<u8>) -> bool {
        if self.packets.len() >= PACKETS {
            return false;
        }
        self.packets.push_back(packet);
        self.signal();
        true
    }

    /// Adds somebody who can make packets. Everybody may be in here once only.
    pub fn ready(&mut self, token: Token) {
        self.ready.push_back(token);
        self.signal();
    }

    /// What comes next. Nothing is readable any more if that is nothing.
    pub fn pop(&mut self) -> Option<Next> {
        if let Some(packet) = self.packets.pop_front() {
            return Some(Next::Packet(packet));
        }
        if let Some(token) = self.ready.pop_front() {
            return Some(Next::From(token));
        }
        if self.signalled {
            self.signalled = false;
            clear(self.event.as_fd());
        }
        None
    }

    fn signal(&mut self) {
        if !self.signalled {
            self.signalled = true;
            ring(self.event.as_fd());
        }
    }
}

/// Makes an eventfd readable.
pub fn ring(event: BorrowedFd<'_>) {
    // A counter that is full is readable, too.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

/// Makes an eventfd unreadable.
pub fn clear(event: BorrowedFd<'_>) {
    let _ = rustix::io::read(event, &mut [0; 8]);
}
