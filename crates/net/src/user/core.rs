//! What everything in the network has to do with.

use super::addresses::Addresses;
use super::neighbours::Neighbours;
use super::outbox::{Outbox, ring};
use super::reach::{Reach, Reached};
use super::timers::{Timer, Timers};
use super::token::{Kind, Token};
use super::{icmp, ip, sockets};
use crate::backend::{DropCounts, count};
use crate::offloads::Offloads;
use crate::raw;
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketType;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Addresses, packets for the guest, times.
pub struct Core {
    pub addresses: Addresses,
    /// Bytes of a packet without its Ethernet header.
    pub mtu: usize,
    /// Whether MSG_PEEK on TCP sockets can begin behind the first byte.
    pub peeks_on: bool,
    /// What the guest takes undone.
    pub accepted: Offloads,
    pub reach: Reach,
    pub neighbours: Neighbours,
    /// Those that waited for the guest's address were told.
    pub guest_found: bool,
    pub outbox: Outbox,
    pub timers: Timers,
    pub now: Instant,
    pub drops: Arc<DropCounts>,
    epoll: Arc<OwnedFd>,
    wake: Arc<OwnedFd>,
    /// When the thread gets up by itself.
    pub asleep_until: Option<Instant>,
    number: u64,
}

impl Core {
    pub fn new(
        addresses: Addresses,
        mtu: u16,
        host_loopback: bool,
        epoll: Arc<OwnedFd>,
        wake: Arc<OwnedFd>,
    ) -> io::Result<Self> {
        Ok(Self {
            addresses,
            mtu: mtu.into(),
            peeks_on: peeks_on(),
            accepted: Offloads::NONE,
            reach: Reach::new(addresses, host_loopback),
            neighbours: Neighbours::default(),
            guest_found: false,
            outbox: Outbox::new()?,
            timers: Timers::default(),
            now: Instant::now(),
            drops: Arc::default(),
            epoll,
            wake,
            asleep_until: None,
            number: 0,
        })
    }

    /// A name that nothing had before.
    pub fn token(&mut self, kind: Kind) -> Token {
        self.number += 1;
        Token::new(kind, self.number)
    }

    /// Tells of every change of a socket once.
    pub fn watch(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, token.data(), flags())?)
    }

    /// Looks once more whether a socket can be written to, and has the kernel know that somebody waits for that.
    pub fn watch_again(&self, socket: impl AsFd, token: Token) {
        let _ = epoll::modify(&self.epoll, socket, token.data(), flags());
    }

    /// Has a timer come up after `wait`.
    pub fn set_timer(&mut self, timer: &mut Timer, token: Token, wait: Duration) {
        let due = self.now + wait;
        self.timers.set(timer, token, due);
        // The thread sleeps for longer.
        if self.asleep_until.is_some_and(|until| due < until) {
            self.asleep_until = None;
            ring(self.wake.as_fd());
        }
    }

    /// A packet for the guest, which is dropped if too many wait.
    pub fn send(&mut self, packet: Vec<u8>) {
        if !self.outbox.push(packet) {
            count(&self.drops.received);
        }
    }

    /// A packet of IP, in fragments if it is too long for one.
    pub fn send_ip(&mut self, to: [u8; 6], addresses: (IpAddr, IpAddr), protocol: u8, payload: &[u8]) {
        let (from, mtu) = (self.addresses.mac, self.mtu);
        for packet in ip::packets(to, from, addresses, protocol, payload, mtu) {
            self.send(packet);
        }
    }

    /// Tells the guest that a packet of its, of which `original` is the IP header and what follows, did not arrive.
    pub fn unreachable(
        &mut self,
        to: [u8; 6],
        addresses: (IpAddr, IpAddr),
        why: icmp::Error,
        original: &[u8],
    ) {
        let (guest, destination) = addresses;
        // As routers do; and nobody would answer for a group.
        let from = match destination {
            _ if self.addresses.is_ours(destination) => destination,
            IpAddr::V4(_) => self.addresses.gateway.into(),
            IpAddr::V6(_) => self.addresses.gateway6.into(),
        };
        let from = match why {
            icmp::Error::Port => destination,
            _ => from,
        };
        let (protocol, message) = icmp::error(why, (from, guest), original);
        self.send_ip(to, (from, guest), protocol, &message);
    }

    /// Where on the host a destination of the guest's is.
    pub fn reach(&self, destination: IpAddr) -> Reached {
        self.reach.outward(destination)
    }
}

/// Whether the kernel has SO_PEEK_OFF for TCP (Linux 6.9), over both IPs.
fn peeks_on() -> bool {
    [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]
        .into_iter()
        .all(|address| {
            match sockets::new(address, SocketType::STREAM, None) {
                Ok(socket) => raw::set_peek_offset(socket.as_fd(), 0).is_ok(),
                // Then there are none of it that could not.
                Err(e) => e == Errno::AFNOSUPPORT,
            }
        })
}

fn flags() -> EventFlags {
    EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET
}
