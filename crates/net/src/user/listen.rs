//! Ports of the host that lead to the guest.

use super::UserError;
use super::core::Core;
use super::flows::Flows;
use super::forward::Forward;
use super::timers::Timer;
use super::token::{Kind, Token};
use super::udp::{self, Datagram};
use super::{link, sockets};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{RecvFlags, SocketFlags, SocketType, acceptfrom_with, bind, getsockname, listen, recvfrom};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Connections that are accepted in a row.
const TURN: usize = 64;
/// Without descriptors, it is tried again after so long.
const PAUSE: Duration = Duration::from_millis(100);
/// Clients of UDP ports that are remembered, and for how long after their last datagram.
const CLIENTS: usize = 1024;
const IDLE: Duration = Duration::from_secs(300);
/// Ports of the gateway's that are tried for a client.
const TRIES: usize = 64;

/// All ports.
pub struct Listeners {
    listeners: HashMap<Token, Listener>,
    clients: Flows<(Token, SocketAddr), Client>,
    /// Clients by the port that they have with the guest: the guest's port and the gateway's.
    ports: HashMap<(u16, u16), Token>,
}

struct Listener {
    forward: Forward,
    socket: OwnedFd,
    timer: Timer,
    /// In the outbox.
    ready: bool,
    /// Until it is known where the guest is.
    waits: bool,
}

struct Client {
    listener: Token,
    address: SocketAddr,
    ports: (u16, u16),
}

/// What listens, and for which port.
pub type Sockets = Vec<(Forward, OwnedFd)>;

/// Sockets for some ports, and the ports with the numbers they have got.
pub fn open(forwards: &[Forward]) -> Result<(Sockets, Vec<Forward>), UserError> {
    let (mut sockets, mut opened) = (vec![], vec![]);
    for forward in forwards {
        let mut forward = *forward;
        let mut got = 0;
        for address in forward.addresses() {
            let bound = socket(SocketAddr::new(address, forward.host), forward.udp);
            let socket = match bound {
                Ok(socket) => socket,
                // Not every host has IPv6, and nobody asked for it.
                Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if forward.address.is_none() && got > 0 => {
                    continue;
                }
                Err(e) => return Err(UserError::forward(forward, address, e)),
            };
            let local = getsockname(&socket).and_then(SocketAddr::try_from);
            forward.host = local.map_err(|e| UserError::forward(forward, address, e))?.port();
            sockets.push((forward, socket));
            got += 1;
        }
        opened.push(forward);
    }
    Ok((sockets, opened))
}

fn socket(address: SocketAddr, udp: bool) -> Result<OwnedFd, Errno> {
    if udp {
        let socket = sockets::new(address.ip(), SocketType::DGRAM, None)?;
        bind(&socket, &address)?;
        return Ok(socket);
    }
    let socket = sockets::new(address.ip(), SocketType::STREAM, None)?;
    // What an earlier one has left behind does not keep the port.
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            listeners: HashMap::new(),
            clients: Flows::new(Kind::Client, CLIENTS),
            ports: HashMap::new(),
        }
    }
}

impl Listeners {
    /// On these sockets.
    pub fn new(core: &mut Core, sockets: Sockets) -> std::io::Result<Self> {
        let mut listeners = HashMap::new();
        for (forward, socket) in sockets {
            let token = core.token(Kind::Listener);
            core.watch(&socket, token)?;
            let listener = Listener {
                forward,
                socket,
                timer: Timer::default(),
                ready: false,
                waits: false,
            };
            listeners.insert(token, listener);
        }
        Ok(Self {
            listeners,
            ..Self::default()
        })
    }

    /// Somebody has come: accepts TCP connections, with the port they come from and the guest's.
    pub fn readable(&mut self, core: &mut Core, token: Token) -> Vec<(OwnedFd, u16, u16)> {
        let mut accepted = vec![];
        let Some(listener) = self.listeners.get_mut(&token) else {
            return accepted;
        };
        if listener.forward.udp {
            listener.get_ready(core, token);
            return accepted;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..TURN {
            match acceptfrom_with(&listener.socket, flags) {
                Ok((client, from)) => {
                    let port = from
                        .and_then(|a| SocketAddr::try_from(a).ok())
                        .map_or(0, |a| a.port());
                    accepted.push((client, port, listener.forward.guest));
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return accepted,
                Err(_) => {
                    core.set_timer(&mut listener.timer, token, PAUSE);
                    return accepted;
                }
            }
        }
        // There may be more, which is told once more.
        core.watch_again(&listener.socket, token);
        accepted
    }

    /// The guest's address has been found: those that wait for it go on.
    pub fn found_guest(&mut self, core: &mut Core) {
        for (token, listener) in &mut self.listeners {
            if std::mem::take(&mut listener.waits) {
                listener.get_ready(core, *token);
            }
        }
    }

    /// Takes one datagram of a client's and makes it into packets.
    pub fn produce(&mut self, core: &mut Core, token: Token, buffer: &mut [u8]) {
        let Some(listener) = self.listeners.get_mut(&token) else {
            return;
        };
        listener.ready = false;
        let guest = core.addresses.guest;
        let Some(mac) = core.neighbours.find(guest.into()) else {
            // It waits in the socket.
            listener.waits = true;
            link::ask(core, guest);
            core.set_timer(&mut listener.timer, token, Duration::from_secs(1));
            return;
        };
        let (len, address) = match recvfrom(&listener.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((len, _, Some(from))) => (len, SocketAddr::try_from(from)),
            Err(Errno::CONNREFUSED) => return listener.get_ready(core, token),
            _ => return,
        };
        listener.get_ready(core, token);
        let port = listener.forward.guest;
        let Ok(address) = address else { return };
        let Some(from) = self.port(core, token, address, port) else {
            return;
        };
        let (from, to) = ((core.addresses.gateway, from).into(), (guest, port).into());
        udp::send(core, mac, (from, to), &buffer[..len]);
    }

    /// The gateway's port that stands for a client.
    fn port(&mut self, core: &mut Core, listener: Token, address: SocketAddr, guest: u16) -> Option<u16> {
        if let Some(client) = self.clients.find(&(listener, address)) {
            return self.clients.touch(core, client).map(|c| c.ports.1);
        }
        if let Some(old) = self.clients.evict(core) {
            self.ports.remove(&old.ports);
        }
        let mut port = address.port();
        for _ in 0..TRIES {
            if port >= 1024 && !self.ports.contains_key(&(guest, port)) {
                break;
            }
            let mut random = [0; 2];
            let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
            port = u16::from_ne_bytes(random) | 0x8000;
        }
        let ports = (guest, port);
        if self.ports.contains_key(&ports) {
            return None;
        }
        let token = self.clients.token(core);
        let client = Client {
            listener,
            address,
            ports,
        };
        self.clients
            .insert(core, token, (listener, address), client, IDLE);
        self.ports.insert(ports, token);
        Some(port)
    }

    /// Passes a datagram of the guest's on, if it is for a client.
    pub fn reply(&mut self, core: &mut Core, datagram: &Datagram<'_>) -> bool {
        let to_gateway =
            datagram.to.ip() == core.addresses.gateway && datagram.from.ip() == core.addresses.guest;
        let ports = (datagram.from.port(), datagram.to.port());
        let Some(&token) = self.ports.get(&ports).filter(|_| to_gateway) else {
            return false;
        };
        if let Some(client) = self.clients.touch(core, token)
            && let Some(listener) = self.listeners.get(&client.listener)
        {
            let _ = sockets::send_to(&listener.socket, datagram.data, client.address);
        }
        true
    }

    /// A client's timer has come up.
    pub fn client_expired(&mut self, core: &mut Core, token: Token) {
        if let Some(old) = self.clients.expired(core, token) {
            self.ports.remove(&old.ports);
        }
    }

    /// A listener's timer has come up: whether it is to look again.
    pub fn expired(&mut self, core: &mut Core, token: Token) -> bool {
        let Some(listener) = self.listeners.get_mut(&token) else {
            return false;
        };
        core.timers.is_due(&mut listener.timer, token, core.now)
    }
}

impl Listener {
    fn get_ready(&mut self, core: &mut Core, token: Token) {
        if !self.ready {
            self.ready = true;
            core.outbox.ready(token);
        }
    }
}
