//! All connections of a device, and those that want to become one.

use super::connection::{Connection, Ports};
use super::handshake::{Handshake, Progress};
use super::listener::Listener;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most connections, whoever asked for them.
pub const MOST: usize = 1024;
/// The most that have not said what they want.
const MOST_HANDSHAKES: usize = 64;
/// How long they have for it. A person may be typing.
const TO_SAY: Duration = Duration::from_secs(60);
/// When accepting is tried again after it failed.
const RETRY: Duration = Duration::from_secs(1);
/// Ports that the host's end of its own connections gets.
const FIRST_PORT: u32 = 1 << 30;
const LAST_PORT: u32 = (1 << 31) - 1;
/// The listener's token.
const LISTENER: u64 = 0;

pub struct Sockets {
    listener: Arc<Listener>,
    epoll: Arc<OwnedFd>,
    /// Somebody may wait to be accepted.
    callers: bool,
    /// They cannot be accepted before then: there are no file descriptors left.
    retry: Option<Instant>,
    handshakes: BTreeMap<u64, Handshake>,
    pub connections: BTreeMap<u64, Connection>,
    by_ports: HashMap<Ports, u64>,
    next_token: u64,
    next_port: u32,
}

impl Sockets {
    pub fn new(listener: &Arc<Listener>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(
            &epoll,
            listener.as_ref(),
            data,
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        Ok(Self {
            listener: listener.clone(),
            epoll: Arc::new(epoll),
            callers: true,
            retry: None,
            handshakes: BTreeMap::new(),
            connections: BTreeMap::new(),
            by_ports: HashMap::new(),
            next_token: LISTENER + 1,
            next_port: FIRST_PORT,
        })
    }

    /// Readable when [`Sockets::look`] has something to see.
    pub fn file(&self) -> &Arc<OwnedFd> {
        &self.epoll
    }

    /// Notes what has happened to the sockets since the last time.
    pub fn look(&mut self) {
        if self.retry.is_some_and(|at| at <= Instant::now()) {
            (self.callers, self.retry) = (true, None);
        }
        let mut events = Vec::with_capacity(64);
        let at_once = Timespec::default();
        while epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&at_once)).is_ok_and(|n| n > 0) {
            for event in events.drain(..) {
                let (token, flags) = (event.data.u64(), event.flags);
                let ends = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
                let readable = ends || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP);
                if token == LISTENER {
                    self.callers = true;
                } else if let Some(h) = self.handshakes.get_mut(&token) {
                    h.readable |= readable;
                } else if let Some(c) = self.connections.get_mut(&token) {
                    c.readable |= readable;
                    c.writable |= ends || flags.contains(epoll::EventFlags::OUT);
                    c.hung_up |= ends;
                    c.notice_hang_up();
                }
            }
        }
    }

    fn watch(&mut self, stream: &UnixStream) -> io::Result<u64> {
        let token = self.next_token;
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(
            &self.epoll,
            stream.as_fd(),
            epoll::EventData::new_u64(token),
            flags,
        )?;
        self.next_token += 1;
        Ok(token)
    }

    /// Accepts who waits, and hears what they want.
    pub fn answer_callers(&mut self) {
        while self.callers && self.handshakes.len() < MOST_HANDSHAKES && self.connections.len() < MOST {
            match self.listener.accept() {
                Ok(stream) => {
                    if let Ok(token) = self.watch(&stream) {
                        let handshake = Handshake {
                            stream,
                            readable: true,
                            until: Instant::now() + TO_SAY,
                        };
                        self.handshakes.insert(token, handshake);
                    }
                }
                Err(e) => {
                    self.callers = false;
                    self.retry = (e.kind() != io::ErrorKind::WouldBlock).then(|| Instant::now() + RETRY);
                }
            }
        }
        let ready = self.handshakes.iter_mut().filter(|(_, h)| h.readable);
        let done: Vec<_> = ready
            .map(|(token, h)| (*token, h.advance()))
            .filter(|(_, progress)| *progress != Progress::Waits)
            .collect();
        for (token, progress) in done {
            let handshake = self.handshakes.remove(&token);
            if let (Some(h), Progress::Port(port)) = (handshake, progress)
                && let Some(ports) = self.free_ports(port)
                && self.connections.len() < MOST
            {
                self.insert(token, Connection::from_host(h.stream, ports));
            }
        }
    }

    /// A port of the host's for a connection to `port` of the guest's.
    fn free_ports(&mut self, port: u32) -> Option<Ports> {
        for _ in 0..=MOST {
            let ports = (port, self.next_port);
            self.next_port = if self.next_port == LAST_PORT {
                FIRST_PORT
            } else {
                self.next_port + 1
            };
            if !self.by_ports.contains_key(&ports) {
                return Some(ports);
            }
        }
        None
    }

    /// Connects the guest to the socket of a port; `None` if nobody is there or there are too many.
    pub fn connect(&mut self, request: &super::packet::Header) -> Option<()> {
        if self.connections.len() >= MOST {
            return None;
        }
        let stream = self.listener.dial_port(request.dst_port).ok()?;
        let token = self.watch(&stream).ok()?;
        self.insert(token, Connection::from_guest(stream, request));
        Some(())
    }

    fn insert(&mut self, token: u64, connection: Connection) {
        self.by_ports.insert(connection.ports, token);
        self.connections.insert(token, connection);
    }

    /// The connection between two ports.
    pub fn find(&mut self, ports: Ports) -> Option<(u64, &mut Connection)> {
        let token = *self.by_ports.get(&ports)?;
        Some((token, self.connections.get_mut(&token)?))
    }

    /// The guest has forgotten it.
    pub fn forget_ports(&mut self, ports: Ports) {
        self.by_ports.remove(&ports);
    }

    /// Ends a connection.
    pub fn remove(&mut self, token: u64) -> Option<Connection> {
        let connection = self.connections.remove(&token)?;
        if self.by_ports.get(&connection.ports) == Some(&token) {
            self.by_ports.remove(&connection.ports);
        }
        Some(connection)
    }

    /// Ends what has not said in time what it wants.
    pub fn expire_handshakes(&mut self, now: Instant) {
        self.handshakes.retain(|_, h| h.until > now);
    }

    /// The next time at which something is over.
    pub fn until(&self) -> Option<Instant> {
        let handshakes = self.handshakes.values().map(|h| h.until);
        let connections = self.connections.values().filter_map(Connection::until);
        handshakes.chain(connections).chain(self.retry).min()
    }

    /// Whether somebody waits who could be answered.
    pub fn has_callers(&self) -> bool {
        self.callers && self.handshakes.len() < MOST_HANDSHAKES && self.connections.len() < MOST
    }
}
