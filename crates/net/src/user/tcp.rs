//! TCP connections: the guest's to others, and those of the host's clients to the guest.
//!
//! The host's kernel speaks TCP with the other end and has the data; here it is only moved, and said to the guest in
//! segments. What the guest sends is written to the socket from its own memory, and acknowledged when the socket has
//! taken it: the window is what the socket's buffer has room for. What is for the guest stays in the socket until it is
//! acknowledged (MSG_PEEK), so that it can be sent again and nothing is kept twice, and the other end is told to wait
//! by the kernel when the guest does not keep up. Between the guest and here no packet is late or out of order, so
//! there is no more to TCP than that.

mod answer;
mod conn;
mod connect;
mod input;
mod output;
mod segment;
mod seq;
mod socket;

use super::core::Core;
use super::reach::Reached;
use super::resolver::Resolver;
use super::sockets;
use super::token::{Kind, Token};
use super::{dns, icmp};
use crate::packet::{Gather, Scatter};
use answer::{failed, refuse, unreachable};
use conn::{Conn, Fate, SHIFT, State};
use connect::{connect, happened};
pub use output::Made;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
pub use segment::Segment;
use segment::{ACK, Ends, RST, SYN};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Ports of the gateway's that are tried for a client.
const TRIES: usize = 64;

/// All connections.
pub struct Tcp {
    most: usize,
    conns: HashMap<Token, Conn>,
    /// By the guest's end and the other.
    tokens: HashMap<(SocketAddr, SocketAddr), Token>,
    secret: RandomState,
    start: Instant,
    /// How many of them are over and only remembered.
    over: usize,
    /// Somebody was told of the limit.
    told: bool,
}

impl Tcp {
    /// So many connections at most.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            conns: HashMap::new(),
            tokens: HashMap::new(),
            secret: RandomState::new(),
            start: Instant::now(),
            over: 0,
            told: false,
        }
    }

    /// Takes a segment of the guest's, which is in `packet`.
    pub fn input(
        &mut self,
        core: &mut Core,
        resolver: &mut Resolver,
        segment: &Segment,
        packet: &dyn Gather,
        scratch: &mut [u8],
    ) {
        if let Some(&token) = self.tokens.get(&(segment.from, segment.to)) {
            let Some(conn) = self.conns.get_mut(&token) else {
                return;
            };
            // Another one between the same ends (RFC 9293 §3.10.7.4).
            let again = conn.state == State::TimeWait
                && segment.flags & (SYN | ACK | RST) == SYN
                && seq::before(conn.rcv_nxt, segment.seq);
            if !again {
                let was_over = conn.state == State::TimeWait;
                let fate = input::input(conn, core, segment, packet, scratch);
                self.over += usize::from(!was_over && conn.state == State::TimeWait);
                return self.settle(core, token, fate);
            }
            self.remove(core, token);
        }
        match segment.flags & (SYN | ACK | RST) {
            SYN => self.open(core, resolver, segment),
            flags if flags & RST == 0 => refuse(core, segment),
            _ => {}
        }
    }

    /// The guest wants a connection.
    fn open(&mut self, core: &mut Core, resolver: &mut Resolver, segment: &Segment) {
        let to = segment.to;
        let mut targets = match core.reach(to.ip()) {
            Reached::Outside(address) => vec![SocketAddr::new(address, to.port())],
            Reached::Dns if to.port() == dns::PORT => resolver.servers(core.now).to_vec(),
            Reached::Dns | Reached::Gateway => return refuse(core, segment),
            Reached::Nowhere => return unreachable(core, segment, icmp::Error::Host),
            Reached::Group => return,
        };
        if to.port() == 0 || !self.has_room(core) {
            return refuse(core, segment);
        }
        let ends = Ends {
            to_mac: segment.mac,
            from_mac: core.addresses.mac,
            from: to,
            to: segment.from,
        };
        let (token, iss) = (core.token(Kind::Tcp), self.iss(ends));
        let mut why = Errno::CONNREFUSED;
        while !targets.is_empty() {
            match connect(core, token, targets.remove(0)) {
                Ok(socket) => {
                    let mut conn = Conn::new(core, token, ends, State::Connecting, socket, iss);
                    conn.others = targets;
                    input::first(&mut conn, core, segment);
                    return self.insert(core, conn);
                }
                Err(e) => why = e,
            }
        }
        if matches!(why, Errno::MFILE | Errno::NFILE) {
            self.tell();
        }
        failed(core, segment, why);
    }

    /// A client of the host's wants a connection to a port of the guest's.
    pub fn accept(&mut self, core: &mut Core, client: OwnedFd, from: u16, guest: u16) {
        let gateway = core.addresses.gateway;
        let to: SocketAddr = (core.addresses.guest, guest).into();
        // Its own port if possible, so that who looks at both sides knows it.
        let mut port = from;
        for _ in 0..TRIES {
            if port >= 1024 && !self.tokens.contains_key(&(to, (gateway, port).into())) {
                break;
            }
            let mut random = [0; 2];
            let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
            port = u16::from_ne_bytes(random) | 0x8000;
        }
        let from: SocketAddr = (gateway, port).into();
        if self.tokens.contains_key(&(to, from)) || !self.has_room(core) {
            return sockets::reset(client);
        }
        let ends = Ends {
            // Until it is known.
            to_mac: [0xff; 6],
            from_mac: core.addresses.mac,
            from,
            to,
        };
        let (token, iss) = (core.token(Kind::Tcp), self.iss(ends));
        if socket::prepare(&client).is_err() || core.watch(&client, token).is_err() {
            return sockets::reset(client);
        }
        let mut conn = Conn::new(core, token, ends, State::SynSent, client, iss);
        conn.syn_now = true;
        self.insert(core, conn);
    }

    fn insert(&mut self, core: &mut Core, mut conn: Conn) {
        conn.get_ready(core);
        conn.arm(core);
        self.tokens.insert((conn.ends.to, conn.ends.from), conn.token);
        self.conns.insert(conn.token, conn);
    }

    /// The guest's address has been found: those that wait for it go on.
    pub fn found_guest(&mut self, core: &mut Core) {
        for conn in self
            .conns
            .values_mut()
            .filter(|c| c.state == State::SynSent && c.ends.to_mac == [0xff; 6])
        {
            conn.syn_now = true;
            conn.get_ready(core);
        }
    }

    /// Something has happened to a socket.
    pub fn event(&mut self, core: &mut Core, token: Token, flags: EventFlags) {
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        let fate = happened(conn, core, flags);
        conn.get_ready(core);
        self.settle(core, token, fate);
    }

    /// Makes the next packet of a connection.
    pub fn produce(
        &mut self,
        core: &mut Core,
        token: Token,
        into: &mut dyn Scatter,
        scratch: &mut Vec<u8>,
    ) -> Option<usize> {
        let conn = self.conns.get_mut(&token)?;
        conn.ready = false;
        let made = output::make(conn, core, into, scratch);
        conn.arm(core);
        match made {
            Made::Packet(len) => {
                conn.get_ready(core);
                Some(len)
            }
            Made::Nothing => None,
            Made::Broken(fate) => {
                self.settle(core, token, fate);
                None
            }
        }
    }

    /// A timer has come up.
    pub fn expired(&mut self, core: &mut Core, token: Token) {
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        let fate = conn.expired(core);
        self.settle(core, token, fate);
    }

    fn settle(&mut self, core: &mut Core, token: Token, fate: Fate) {
        if fate == Fate::Lives {
            return;
        }
        let Some(mut conn) = self.remove(core, token) else {
            return;
        };
        let silent =
            conn.state == State::Connecting || (conn.state == State::SynSent && conn.snd_max == conn.snd_una);
        if fate == Fate::ResetBoth && !silent {
            core.send(conn.ends.bare(conn.say(RST | ACK)));
        }
        if let Some(socket) = conn.socket.take()
            && fate != Fate::Ends
        {
            sockets::reset(socket);
        }
    }

    fn remove(&mut self, core: &mut Core, token: Token) -> Option<Conn> {
        let mut conn = self.conns.remove(&token)?;
        self.tokens.remove(&(conn.ends.to, conn.ends.from));
        core.timers.cancel(&mut conn.timer, token);
        self.over -= usize::from(conn.state == State::TimeWait);
        Some(conn)
    }

    fn has_room(&mut self, core: &mut Core) -> bool {
        if self.conns.len() < self.most {
            return true;
        }
        // What is only remembered gives way.
        let over = |c: &&Conn| c.state == State::TimeWait;
        if self.over > 0
            && let Some(token) = self.conns.values().find(over).map(|c| c.token)
        {
            self.remove(core, token);
            return true;
        }
        self.tell();
        false
    }

    /// Says once that there are too many.
    fn tell(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            let count = self.conns.len();
            tracing::warn!("a guest has {count} connections, and gets no more: raise `ulimit -n`");
        }
    }

    /// The first sequence number (RFC 6528).
    fn iss(&self, ends: Ends) -> u32 {
        let clock = self.start.elapsed().as_micros() / 4;
        (self.secret.hash_one((ends.from, ends.to)) as u32).wrapping_add(clock as u32)
    }
}
