//! Messages about packets that did not arrive, and echoes (RFC 792, RFC 4443).

use super::ip;
use crate::checksum;
use std::net::IpAddr;

/// Why a packet did not arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// There is no way to the network.
    Network,
    /// There is no such host.
    Host,
    /// Nobody listens.
    Port,
    /// The host's rules forbid it.
    Prohibited,
    /// It was not to go any further.
    Expired,
    /// It was too long: so many bytes would not be.
    TooBig(u32),
}

pub const ECHO_REQUEST: u8 = 8;
pub const ECHO_REPLY: u8 = 0;
pub const ECHO_REQUEST6: u8 = 128;
pub const ECHO_REPLY6: u8 = 129;

/// What a message of either kind has of the packet it is about (RFC 1812 §4.3.2.3, RFC 4443 §2.4).
const SHOWN: [usize; 2] = [548, 1232];

/// The protocol, and a message about a packet.
pub fn error(why: Error, (from, to): (IpAddr, IpAddr), original: &[u8]) -> (u8, Vec<u8>) {
    let v4 = from.is_ipv4();
    let (kind, code, rest) = match (why, v4) {
        (Error::Network, true) => (3, 0, 0),
        (Error::Host, true) => (3, 1, 0),
        (Error::Port, true) => (3, 3, 0),
        (Error::Prohibited, true) => (3, 13, 0),
        (Error::Expired, true) => (11, 0, 0),
        (Error::TooBig(mtu), true) => (3, 4, mtu & 0xffff),
        (Error::Network, false) => (1, 0, 0),
        (Error::Host, false) => (1, 3, 0),
        (Error::Port, false) => (1, 4, 0),
        (Error::Prohibited, false) => (1, 1, 0),
        (Error::Expired, false) => (3, 0, 0),
        (Error::TooBig(mtu), false) => (2, 0, mtu),
    };
    let shown = original.len().min(SHOWN[usize::from(!v4)]);
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend_from_slice(&original[..shown]);
    (finish((from, to), &mut message), message)
}

/// An echo's answer to be sent from one to the other, made of the request or of another answer.
pub fn echo_reply((from, to): (IpAddr, IpAddr), ident: u16, message: &[u8]) -> (u8, Vec<u8>) {
    let mut reply = message.to_vec();
    let kind = if from.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY6 };
    reply[..4].copy_from_slice(&[kind, 0, 0, 0]);
    reply[4..6].copy_from_slice(&ident.to_be_bytes());
    (finish((from, to), &mut reply), reply)
}

/// Puts the checksum in; the protocol.
pub fn finish((from, to): (IpAddr, IpAddr), message: &mut [u8]) -> u8 {
    let (protocol, pseudo) = match from {
        IpAddr::V4(_) => (ip::ICMP, 0),
        IpAddr::V6(_) => (ip::ICMPV6, ip::pseudo(from, to, ip::ICMPV6, message.len())),
    };
    message[2..4].copy_from_slice(&[0, 0]);
    let sum = checksum::of(pseudo + checksum::sum(message));
    message[2..4].copy_from_slice(&sum);
    protocol
}
