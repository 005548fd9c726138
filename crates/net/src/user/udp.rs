//! Datagrams of the guest's: one socket of the host's for each of its ports (RFC 4787).
//!
//! Whatever arrives at that socket goes to the guest ("endpoint-independent filtering"), as protocols want that find
//! their way through address translation, but what comes from the host's loopback.

use super::core::Core;
use super::flows::Flows;
use super::reach::Reached;
use super::sockets::{self, Failure};
use super::token::{Kind, Token};
use super::{icmp, ip};
use crate::checksum;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketType, recvfrom};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

const HEADER: usize = 8;
/// Longest datagram, with its header.
pub const LARGEST: usize = 65535;
/// Without a datagram for so long, a port is forgotten (RFC 4787 §4.3).
const IDLE: Duration = Duration::from_secs(300);
/// Failures that are looked at in a row.
const FAILURES: usize = 16;

/// The guest's ports.
pub struct Udp {
    flows: Flows<SocketAddr, Flow>,
}

struct Flow {
    guest: SocketAddr,
    mac: [u8; 6],
    socket: OwnedFd,
    /// Datagrams must not be made into fragments.
    whole: bool,
    /// In the outbox.
    ready: bool,
}

/// A datagram of the guest's.
#[derive(Clone, Copy)]
pub struct Datagram<'a> {
    pub mac: [u8; 6],
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub whole: bool,
    pub data: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// What is in an IP packet. Its checksum has been looked at by the caller.
    pub fn parse(mac: [u8; 6], packet: &ip::Ip, payload: &'a [u8]) -> Option<Self> {
        let head: &[u8; HEADER] = payload.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let len = match usize::from(word(4)) {
            // Of segmentation, the length may not say it all.
            0 => payload.len(),
            len => len,
        };
        Some(Self {
            mac,
            from: (packet.source, word(0)).into(),
            to: (packet.destination, word(2)).into(),
            whole: packet.whole,
            data: payload.get(HEADER..len)?,
        })
    }

    /// Tells the guest that it did not arrive.
    pub fn unreachable(&self, core: &mut Core, why: icmp::Error) {
        let original = original(core, self.from, self.to, self.data);
        core.unreachable(self.mac, (self.from.ip(), self.to.ip()), why, &original);
    }
}

/// The IP packet that a datagram was in, or its beginning.
fn original(core: &Core, from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let len = HEADER + data.len();
    let packet = ip::begin([0; 6], core.addresses.mac, (from.ip(), to.ip()), ip::UDP, len);
    let mut original = packet[crate::header::MIN_PACKET..].to_vec();
    original.extend(header(from, to, data));
    original.extend_from_slice(data);
    original
}

fn header(from: SocketAddr, to: SocketAddr, data: &[u8]) -> [u8; HEADER] {
    let len = (HEADER + data.len()) as u16;
    let mut header = [0; HEADER];
    for (at, word) in [from.port(), to.port(), len].into_iter().enumerate() {
        header[at * 2..at * 2 + 2].copy_from_slice(&word.to_be_bytes());
    }
    let pseudo = ip::pseudo(from.ip(), to.ip(), ip::UDP, len.into());
    let sum = checksum::of(pseudo + checksum::sum(&header) + checksum::sum(data));
    header[6..].copy_from_slice(&sum);
    header
}

/// A datagram for the guest.
pub fn send(core: &mut Core, mac: [u8; 6], (from, to): (SocketAddr, SocketAddr), data: &[u8]) {
    let payload = [&header(from, to, data), data].concat();
    core.send_ip(mac, (from.ip(), to.ip()), ip::UDP, &payload);
}

impl Udp {
    /// So many ports at most.
    pub fn new(most: usize) -> Self {
        Self {
            flows: Flows::new(Kind::Udp, most),
        }
    }

    /// Sends a datagram of the guest's.
    pub fn input(&mut self, core: &mut Core, datagram: Datagram<'_>) {
        let to = match core.reach(datagram.to.ip()) {
            Reached::Outside(address) => SocketAddr::new(address, datagram.to.port()),
            Reached::Group => return,
            Reached::Nowhere => return datagram.unreachable(core, icmp::Error::Host),
            Reached::Gateway | Reached::Dns => return datagram.unreachable(core, icmp::Error::Port),
        };
        if to.port() == 0 {
            return;
        }
        let token = match self.flows.find(&datagram.from) {
            Some(token) => token,
            None => match self.open(core, &datagram) {
                Ok(token) => token,
                Err(_) => return datagram.unreachable(core, icmp::Error::Host),
            },
        };
        let Some(flow) = self.flows.touch(core, token) else {
            return;
        };
        if flow.whole != datagram.whole {
            flow.whole = datagram.whole;
            sockets::set_whole(&flow.socket, to.ip(), flow.whole);
        }
        match sockets::send_to(&flow.socket, datagram.data, to) {
            Ok(()) | Err(Errno::AGAIN | Errno::NOBUFS) => {}
            // The kernel has noted the size that would do.
            Err(Errno::MSGSIZE) => self.failed(core, token),
            Err(e) => {
                let why = Failure::from_errno(e).unwrap_or(icmp::Error::Host);
                datagram.unreachable(core, why);
            }
        }
    }

    fn open(&mut self, core: &mut Core, datagram: &Datagram<'_>) -> Result<Token, Errno> {
        // Its socket may be the one that is needed.
        self.flows.evict(core);
        let socket = sockets::new(datagram.to.ip(), SocketType::DGRAM, None)?;
        sockets::tell_failures(&socket, datagram.to.ip());
        sockets::set_whole(&socket, datagram.to.ip(), datagram.whole);
        let token = self.flows.token(core);
        core.watch(&socket, token).map_err(|_| Errno::NOMEM)?;
        let flow = Flow {
            guest: datagram.from,
            mac: datagram.mac,
            socket,
            whole: datagram.whole,
            ready: false,
        };
        self.flows.insert(core, token, datagram.from, flow, IDLE);
        Ok(token)
    }

    /// There is something to receive.
    pub fn readable(&mut self, core: &mut Core, token: Token) {
        if let Some(flow) = self.flows.get(token)
            && !flow.ready
        {
            flow.ready = true;
            core.outbox.ready(token);
        }
    }

    /// Something did not arrive.
    pub fn failed(&mut self, core: &mut Core, token: Token) {
        let Some(flow) = self.flows.get(token) else { return };
        for _ in 0..FAILURES {
            let Some(failure) = sockets::failure(flow.socket.as_fd()) else {
                return;
            };
            let Some(why) = failure.why else { continue };
            // The guest knows the destination under another name, perhaps.
            let Some(address) = core.reach.inward(failure.to.ip()) else {
                continue;
            };
            let to = SocketAddr::new(address, failure.to.port());
            let original = original(core, flow.guest, to, &failure.data);
            core.unreachable(flow.mac, (flow.guest.ip(), to.ip()), why, &original);
        }
    }

    /// Receives one datagram and makes it into packets. `buffer` has room for the longest.
    pub fn produce(&mut self, core: &mut Core, token: Token, buffer: &mut [u8]) {
        let Some(flow) = self.flows.get(token) else { return };
        let (len, from) = match recvfrom(&flow.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((len, _, Some(from))) => (len, SocketAddr::try_from(from)),
            // Of one that was sent before.
            Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::MSGSIZE) => {
                return core.outbox.ready(token);
            }
            _ => {
                flow.ready = false;
                return;
            }
        };
        // There may be more, for which others do not wait.
        core.outbox.ready(token);
        let Ok(from) = from else { return };
        let Some(address) = core.reach.inward(from.ip()) else {
            return;
        };
        let Some(flow) = self.flows.touch(core, token) else {
            return;
        };
        let from = SocketAddr::new(address, from.port());
        let (mac, guest) = (flow.mac, flow.guest);
        send(core, mac, (from, guest), &buffer[..len]);
    }

    /// A timer has come up.
    pub fn expired(&mut self, core: &mut Core, token: Token) {
        self.flows.expired(core, token);
    }
}
