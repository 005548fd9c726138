//! A network of the guest's own, without any privilege on the host.
//!
//! The guest has a router, a nameserver and an address of its own (see [`Addresses`]); what it sends to others comes
//! out of sockets of this process, as if a program on the host had sent it. What it can reach is what such a program
//! can, the host's own addresses and all networks it has a way to included, less the host's loopback, links' own
//! addresses (169.254.0.0/16, fe80::/10), multicast and broadcast. Nobody reaches the guest but by a [`Forward`], or in
//! answer to what it has sent.
//!
//! TCP, UDP and echo requests go both ways over IPv4 and IPv6; addresses are handed out by DHCP and router
//! advertisements. Packets stay in the host's sockets until the guest has room for them.

mod addresses;
mod core;
mod dhcp;
mod dns;
mod flows;
mod forward;
mod fragments;
mod icmp;
mod ip;
mod link;
mod listen;
mod neighbours;
mod outbox;
mod ping;
mod reach;
mod resolver;
mod settings;
mod sockets;
mod stack;
mod tcp;
#[cfg(test)]
mod tests;
mod thread;
mod timers;
mod token;
mod udp;

pub use addresses::{Addresses, Network, Network6, NetworkError};
pub use forward::{Forward, ForwardError};
pub use settings::UserNet;

use self::core::Core;
use crate::backend::{Backend, DropCounts, Drops, Port, check_queues, only};
use crate::offloads::Offloads;
use crate::packet::{Gather, Scatter};
use listen::Listeners;
use resolver::Resolver;
use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use stack::Stack;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use thread::Thread;
use token::{Kind, Token};

/// The smallest MTU of IPv4 (RFC 791).
const MIN_MTU: u16 = 68;
/// Bytes of a packet without its Ethernet header, if nothing is said.
pub const DEFAULT_MTU: u16 = 1500;
/// The longest that can be chosen: what IPv4 can say, less the largest header of Ethernet.
pub const MAX_MTU: u16 = 65520;

/// The backend.
pub struct User {
    port: Arc<Gateway>,
    forwards: Vec<Forward>,
    /// Ends with this.
    _thread: Thread,
}

/// It cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Somebody else listens there.
    #[error(
        "port {port} of {address} is taken: forward another one, or find who has it: ss -lnp 'sport = :{port}'",
        port = forward.host
    )]
    Taken {
        /// What was to be forwarded.
        forward: Forward,
        /// Where on the host.
        address: IpAddr,
    },
    /// The port is not for everybody.
    #[error(
        "port {port} of {address} needs a privilege: forward one from 1024 on, or let everybody have it: sysctl \
         net.ipv4.ip_unprivileged_port_start={port}",
        port = forward.host
    )]
    Privileged {
        /// What was to be forwarded.
        forward: Forward,
        /// Where on the host.
        address: IpAddr,
    },
    /// The host does not have the address.
    #[error("{forward}: {address} is no address of this host; see which there are: ip address")]
    NoAddress {
        /// What was to be forwarded.
        forward: Forward,
        /// Which address.
        address: IpAddr,
    },
    /// Another reason not to listen.
    #[error("{forward}: cannot listen on {address}: {cause}")]
    Listen {
        /// What was to be forwarded.
        forward: Forward,
        /// Where on the host.
        address: IpAddr,
        /// Why.
        cause: io::Error,
    },
    /// No descriptors or threads are left.
    #[error("a network in user mode cannot be started: {0}; raise `ulimit -n` or `ulimit -u`")]
    Host(#[from] io::Error),
}

impl UserError {
    fn forward(forward: Forward, address: IpAddr, e: Errno) -> Self {
        match e {
            Errno::ADDRINUSE => Self::Taken { forward, address },
            Errno::ACCESS => Self::Privileged { forward, address },
            Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT => Self::NoAddress { forward, address },
            e => Self::Listen {
                forward,
                address,
                cause: e.into(),
            },
        }
    }
}

/// How many sockets the guest may have.
#[derive(Clone, Copy, Debug)]
struct Limits {
    tcp: usize,
    udp: usize,
}

impl Limits {
    /// Most of the descriptors that the process may have, so that some are left for the rest of it.
    fn new() -> Self {
        let descriptors = getrlimit(Resource::Nofile)
            .current
            .unwrap_or(1 << 20)
            .min(1 << 20) as usize;
        Self {
            tcp: (descriptors / 2).clamp(16, 16384),
            udp: (descriptors / 8).clamp(16, 1024),
        }
    }
}

struct Gateway {
    stack: Mutex<Stack>,
    event: OwnedFd,
    drops: Arc<DropCounts>,
}

impl User {
    /// A network with the host's nameservers. Packets have `mtu` bytes at most without their Ethernet header.
    pub fn start(net: &UserNet, mtu: Option<u16>) -> Result<Self, UserError> {
        Self::with_resolver(net, mtu, Path::new("/etc/resolv.conf"))
    }

    /// A network with the nameservers of another file than /etc/resolv.conf.
    pub fn with_resolver(net: &UserNet, mtu: Option<u16>, resolver: &Path) -> Result<Self, UserError> {
        let (sockets, forwards) = listen::open(&net.forward)?;
        let epoll = Arc::new(epoll::create(CreateFlags::CLOEXEC).map_err(io::Error::from)?);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(eventfd(0, flags).map_err(io::Error::from)?);
        epoll::add(&epoll, &wake, Token::new(Kind::Wake, 0).data(), EventFlags::IN)
            .map_err(io::Error::from)?;
        let mtu = mtu.unwrap_or(DEFAULT_MTU).clamp(MIN_MTU, MAX_MTU);
        let mut core = Core::new(
            net.addresses(),
            mtu,
            net.host_loopback,
            epoll.clone(),
            wake.clone(),
        )?;
        let listeners = Listeners::new(&mut core, sockets)?;
        let (event, drops) = (core.outbox.event()?, core.drops.clone());
        let resolver = Resolver::new(resolver.to_owned());
        let stack = Stack::new(core, resolver, listeners, Limits::new());
        let port = Arc::new(Gateway {
            stack: Mutex::new(stack),
            event,
            drops,
        });
        Ok(Self {
            _thread: Thread::start(&port, epoll, wake)?,
            port,
            forwards,
        })
    }

    /// Who has which address.
    pub fn addresses(&self) -> Addresses {
        self.port.lock().addresses()
    }

    /// What is forwarded, with the ports that were free.
    pub fn forwards(&self) -> &[Forward] {
        &self.forwards
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // A device may have the port for a moment more.
        self.port.lock().close();
    }
}

impl Gateway {
    fn lock(&self) -> MutexGuard<'_, Stack> {
        let mut stack = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
        stack.core.now = Instant::now();
        stack
    }
}

impl Backend for User {
    fn offloads(&self) -> Offloads {
        Offloads::ALL
    }

    fn set_offloads(&self, accepted: Offloads) -> io::Result<()> {
        self.port.lock().core.accepted = accepted;
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

impl Port for Gateway {
    fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn send(&self, packet: &dyn Gather) -> io::Result<()> {
        self.lock().input(packet);
        Ok(())
    }

    fn receive(&self, into: &mut dyn Scatter) -> io::Result<usize> {
        self.lock()
            .output(into)
            .ok_or_else(|| ErrorKind::WouldBlock.into())
    }
}
