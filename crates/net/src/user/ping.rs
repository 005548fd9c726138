//! Echo requests of the guest's, by sockets that need no privilege where the host's administrator lets them
//! (`sysctl net.ipv4.ping_group_range`).

use super::core::Core;
use super::flows::Flows;
use super::sockets::{self, Failure};
use super::token::{Kind, Token};
use super::{icmp, ip};
use rustix::io::Errno;
use rustix::net::{Protocol, RecvFlags, SocketType, ipproto, recvfrom};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Series at most.
const MOST: usize = 64;
/// A series without a request for so long is over (RFC 5508 §3.2 asks for a minute).
const IDLE: Duration = Duration::from_secs(60);
/// Bytes of a message's header.
pub const HEADER: usize = 8;

/// Series of echo requests, by who sends them and their identifier.
pub struct Pings {
    flows: Flows<(IpAddr, u16), Series>,
}

struct Series {
    guest: IpAddr,
    mac: [u8; 6],
    ident: u16,
    socket: OwnedFd,
    ready: bool,
}

impl Pings {
    pub fn new() -> Self {
        Self {
            flows: Flows::new(Kind::Ping, MOST),
        }
    }

    /// Sends a request to `to` on the host.
    pub fn request(
        &mut self,
        core: &mut Core,
        mac: [u8; 6],
        guest: IpAddr,
        to: IpAddr,
        message: &[u8],
    ) -> Result<(), icmp::Error> {
        let ident = u16::from_be_bytes([message[4], message[5]]);
        let sent = self.send(core, mac, (guest, ident), to, message);
        sent.map_err(|e| Failure::from_errno(e).unwrap_or(icmp::Error::Host))
    }

    fn send(
        &mut self,
        core: &mut Core,
        mac: [u8; 6],
        (guest, ident): (IpAddr, u16),
        to: IpAddr,
        message: &[u8],
    ) -> Result<(), Errno> {
        let token = match self.flows.find(&(guest, ident)) {
            Some(token) => token,
            None => {
                self.flows.evict(core);
                let protocol: Protocol = match guest {
                    IpAddr::V4(_) => ipproto::ICMP,
                    IpAddr::V6(_) => ipproto::ICMPV6,
                };
                let socket = sockets::new(guest, SocketType::DGRAM, Some(protocol))?;
                let token = self.flows.token(core);
                core.watch(&socket, token).map_err(|_| Errno::NOMEM)?;
                let series = Series {
                    guest,
                    mac,
                    ident,
                    socket,
                    ready: false,
                };
                self.flows.insert(core, token, (guest, ident), series, IDLE);
                token
            }
        };
        let Some(series) = self.flows.touch(core, token) else {
            return Ok(());
        };
        match sockets::send_to(&series.socket, message, (to, 0).into()) {
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(()),
            sent => sent,
        }
    }

    /// There is an answer.
    pub fn readable(&mut self, core: &mut Core, token: Token) {
        if let Some(series) = self.flows.get(token)
            && !series.ready
        {
            series.ready = true;
            core.outbox.ready(token);
        }
    }

    /// Receives one answer and makes it into packets.
    pub fn produce(&mut self, core: &mut Core, token: Token, buffer: &mut [u8]) {
        let Some(series) = self.flows.get(token) else {
            return;
        };
        let (len, from) = match recvfrom(&series.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((len, _, Some(from))) => (len, SocketAddr::try_from(from)),
            _ => {
                series.ready = false;
                return;
            }
        };
        core.outbox.ready(token);
        let reply = if series.guest.is_ipv4() {
            icmp::ECHO_REPLY
        } else {
            icmp::ECHO_REPLY6
        };
        let (Ok(from), true) = (from, len >= HEADER && buffer[0] == reply) else {
            return;
        };
        let Some(address) = core.reach.inward(from.ip()) else {
            return;
        };
        let (mac, guest, ident) = (series.mac, series.guest, series.ident);
        let (protocol, message) = icmp::echo_reply((address, guest), ident, &buffer[..len]);
        core.send_ip(mac, (address, guest), protocol, &message);
    }

    /// A timer has come up.
    pub fn expired(&mut self, core: &mut Core, token: Token) {
        self.flows.expired(core, token);
    }
}

/// Whether a message is an echo request.
pub fn is_request(packet: &ip::Ip, message: &[u8]) -> bool {
    let kind = if packet.source.is_ipv4() {
        icmp::ECHO_REQUEST
    } else {
        icmp::ECHO_REQUEST6
    };
    message.len() >= HEADER && message[0] == kind && message[1] == 0
}
