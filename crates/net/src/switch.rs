//! Domains of one user, connected to each other without privileges and without a process in the middle.
//!
//! A switch is a directory. Every port has a socket in it, on which those that join later connect to it, so that
//! in the end each is connected to each. A port remembers which addresses it has heard from whom, sends a packet
//! to that one alone, and to all if it does not know. Nobody depends on anybody else: when a process is killed,
//! the kernel closes its connections, which the others see at once.
//!
//! What is under way to a peer that does not receive is bounded, by the kernel; then packets to it are dropped,
//! and those to others are not. Nothing that a peer sends is believed, see [`Checked`](crate::header::Checked).

mod directory;
mod peers;
mod table;

use crate::backend::{BUDGET, Backend, DropCounts, Drops, Port, check_queues, count, only};
use crate::header::{HEADER, MAX_PACKET, MIN_PACKET};
use crate::inbox::{Inbox, Received};
use crate::name::Name;
use crate::offloads::Offloads;
use crate::packet::{Gather, Scatter};
use directory::Directory;
use peers::{Peer, Peers};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use table::Table;

/// Ports of a switch at most.
pub const MAX_PORTS: usize = 256;
/// Packets that one peer may deliver before others are looked for.
const TURN: u32 = 16;

/// One port of a switch.
pub struct Switch {
    port: Arc<Member>,
    directory: Directory,
    name: Name,
}

/// A switch cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The directory cannot be used.
    #[error("the switch's directory {path} cannot be used: {1}", path = .0.display())]
    Directory(PathBuf, io::Error),
    /// Others can enter the directory.
    #[error(
        "the switch's directory {path} is not private to this user: chown $USER {path} && chmod 700 {path}",
        path = .0.display()
    )]
    NotPrivate(PathBuf),
    /// Somebody stays in the middle of joining.
    #[error(
        "another process is joining the switch and does not come to an end; find it: lsof {path}",
        path = .0.display()
    )]
    Locked(PathBuf),
    /// The port is there already.
    #[error("the switch has a port {0} already; take another name, or stop the domain that has it")]
    Taken(Name),
    /// As many ports as there can be.
    #[error("the switch {path} is full: it has {MAX_PORTS} ports; take another one", path = .0.display())]
    Full(PathBuf),
}

struct Member {
    peers: Peers,
    accepted: AtomicU8,
    receiving: Mutex<Receiving>,
    drops: DropCounts,
}

#[derive(Default)]
struct Receiving {
    inbox: Inbox,
    /// Who may have something, and how much they may still deliver.
    ready: VecDeque<(Peer, u32)>,
}

impl Switch {
    /// Joins the switch in a directory, which is made if it is not there, under a name that no other port of it
    /// has.
    ///
    /// Two processes may do that at the same time, and one that was killed does not stand in the way. The
    /// directory is needed no more then, but to remove the port's socket.
    pub fn join(path: &Path, port: &Name) -> Result<Self, SwitchError> {
        let failed = |e: io::Error| SwitchError::Directory(path.into(), e);
        let directory = Directory::open(path)?;
        let joined = directory.join(path, port)?;
        let member = Member {
            peers: Peers::new(joined).map_err(failed)?,
            accepted: AtomicU8::new(0),
            receiving: Mutex::default(),
            drops: DropCounts::default(),
        };
        Ok(Self {
            port: Arc::new(member),
            directory,
            name: port.clone(),
        })
    }

    /// How many other ports there are, as far as this one has heard of them.
    pub fn peers(&self) -> usize {
        self.port.peers.accept();
        self.port.peers.all().len()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.directory.leave(&self.name);
    }
}

impl Backend for Switch {
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

impl Member {
    fn send_to(&self, peer: &Peer, packet: &dyn Gather) {
        // It may be full, or gone: that is seen when everything is received that it sent before.
        if packet.write_to(0..packet.len(), peer.fd()).is_err() {
            count(&self.drops.sent);
        }
    }
}

impl Port for Member {
    fn fd(&self) -> BorrowedFd<'_> {
        self.peers.fd()
    }

    fn send(&self, packet: &dyn Gather) -> io::Result<()> {
        if !(MIN_PACKET..=MAX_PACKET).contains(&packet.len()) {
            count(&self.drops.malformed);
            return Ok(());
        }
        let mut destination = [0; 6];
        packet.load(HEADER, &mut destination);
        if !Table::is_group(destination)
            && let Some(peer) = self.peers.find(destination)
        {
            self.send_to(&peer, packet);
            return Ok(());
        }
        // Also to those that came while nothing was received.
        self.peers.accept();
        for peer in self.peers.all() {
            self.send_to(&peer, packet);
        }
        Ok(())
    }

    fn receive(&self, into: &mut dyn Scatter) -> io::Result<usize> {
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        let Receiving { inbox, ready } = &mut *receiving;
        if let Some(len) = inbox.segment(into, &self.drops) {
            return Ok(len);
        }
        let accepted = Offloads::from_bits(self.accepted.load(Relaxed));
        for _ in 0..BUDGET {
            let Some((peer, turn)) = ready.pop_front() else {
                ready.extend(self.peers.ready()?.into_iter().map(|p| (p, TURN)));
                if ready.is_empty() {
                    break;
                }
                continue;
            };
            let received = inbox.receive(peer.fd(), accepted, into, &self.drops);
            let packet = match received {
                Ok(Received::Packet(len, source)) => {
                    self.peers.learn(source, &peer);
                    Some(len)
                }
                Ok(Received::Dropped) => None,
                Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                // Nothing more will come of it.
                Ok(Received::End) => {
                    self.peers.remove(&peer);
                    continue;
                }
                // A signal, or no memory now. It is no fault of the peer's, which would not come again.
                Err(_) => None,
            };
            if turn > 1 {
                ready.push_back((peer, turn - 1));
            }
            if let Some(len) = packet {
                return Ok(len);
            }
        }
        Err(ErrorKind::WouldBlock.into())
    }
}
