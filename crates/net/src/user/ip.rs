//! IP headers: those that come, and packets with those that go (RFC 791, RFC 8200).

use crate::checksum;
use crate::header::{ETHERNET, HEADER};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

pub const ARP: u16 = 0x0806;
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
/// Extension headers that say nothing to a host that does not forward: hop-by-hop and destination options.
const OPTIONS: [u8; 2] = [0, 60];
/// As many of them as are looked at.
const EXTENSIONS: usize = 4;
/// What packets to the guest live for.
const HOP_LIMIT: u8 = 64;

/// What an IP header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// Where in the frame what the header is for is, all of it inside.
    pub payload: Range<usize>,
    /// It is a part of a larger one.
    pub fragment: Option<Fragment>,
    /// It must not be made into parts (IPv4). Over IPv6, nothing must.
    pub whole: bool,
    pub hops: u8,
}

/// Which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub id: u32,
    pub offset: usize,
    pub more: bool,
}

impl Ip {
    /// Finds out about the header in a frame of `len` bytes, of which the first are here.
    pub fn parse(head: &[u8], len: usize) -> Option<Self> {
        let bytes = head.get(ETHERNET..)?;
        match u16::from_be_bytes([head[12], head[13]]) {
            IPV4 => Self::v4(bytes, len - ETHERNET),
            IPV6 => Self::v6(bytes, len - ETHERNET),
            _ => None,
        }
    }

    fn v4(bytes: &[u8], len: usize) -> Option<Self> {
        let header = usize::from(bytes.first()? & 15) * 4;
        let head = bytes.get(..header)?;
        if header < 20 || bytes[0] >> 4 != 4 || checksum::fold(checksum::sum(head)) != 0xffff {
            return None;
        }
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let total = usize::from(word(2));
        if total < header || total > len {
            return None;
        }
        let (flags, offset) = (word(6) >> 13, usize::from(word(6) & 0x1fff) * 8);
        let more = flags & 1 != 0;
        let address = |at: usize| Ipv4Addr::from(*head[at..].first_chunk::<4>().expect("20 bytes")).into();
        Some(Self {
            source: address(12),
            destination: address(16),
            protocol: head[9],
            payload: ETHERNET + header..ETHERNET + total,
            fragment: (more || offset > 0).then_some(Fragment {
                id: word(4).into(),
                offset,
                more,
            }),
            whole: flags & 2 != 0,
            hops: head[8],
        })
    }

    fn v6(bytes: &[u8], len: usize) -> Option<Self> {
        let head = bytes.first_chunk::<40>()?;
        if head[0] >> 4 != 6 {
            return None;
        }
        let end = 40 + usize::from(u16::from_be_bytes([head[4], head[5]]));
        if end > len {
            return None;
        }
        let (mut protocol, mut at, mut fragment) = (head[6], 40, None);
        for _ in 0..EXTENSIONS {
            if OPTIONS.contains(&protocol) {
                let next = bytes.get(at..at + 2)?;
                (protocol, at) = (next[0], at + 8 * (usize::from(next[1]) + 1));
            } else if protocol == FRAGMENT && fragment.is_none() {
                let next: &[u8; 8] = bytes.get(at..)?.first_chunk()?;
                let word = u16::from_be_bytes([next[2], next[3]]);
                fragment = Some(Fragment {
                    id: u32::from_be_bytes([next[4], next[5], next[6], next[7]]),
                    offset: usize::from(word & !7),
                    more: word & 1 != 0,
                });
                (protocol, at) = (next[0], at + 8);
                // What follows is in the first part only.
                break;
            } else {
                break;
            }
        }
        let address = |at: usize| Ipv6Addr::from(*head[at..].first_chunk::<16>().expect("40 bytes")).into();
        (at <= end).then(|| Self {
            source: address(8),
            destination: address(24),
            protocol,
            payload: ETHERNET + at..ETHERNET + end,
            // A packet in one part is none (RFC 6946).
            fragment: fragment.filter(|f| f.more || f.offset > 0),
            whole: true,
            hops: head[7],
        })
    }
}

/// The sum of the pseudo header.
pub fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u64 {
    let sum = |address| match address {
        IpAddr::V4(a) => checksum::sum(&a.octets()),
        IpAddr::V6(a) => checksum::sum(&a.octets()),
    };
    sum(source) + sum(destination) + u64::from(protocol) + len as u64
}

/// Whether the checksum of `payload` is right.
pub fn verify(ip: &Ip, payload: &[u8]) -> bool {
    let pseudo = match ip.protocol {
        ICMP => 0,
        protocol => pseudo(ip.source, ip.destination, protocol, payload.len()),
    };
    checksum::fold(pseudo + checksum::sum(payload)) == 0xffff
}

/// The beginning of a packet with `len` bytes behind its IP header, for which there is room.
pub fn begin(to: [u8; 6], from: [u8; 6], addresses: (IpAddr, IpAddr), protocol: u8, len: usize) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER + ETHERNET + 48 + len);
    put(&mut packet, to, from, addresses, protocol, len, None);
    packet
}

fn put(
    packet: &mut Vec<u8>,
    to: [u8; 6],
    from: [u8; 6],
    addresses: (IpAddr, IpAddr),
    protocol: u8,
    len: usize,
    fragment: Option<Fragment>,
) {
    // One buffer, nothing left undone.
    packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    packet.extend(to);
    packet.extend(from);
    match addresses {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet.extend(IPV4.to_be_bytes());
            let at = packet.len();
            let (id, flags) = match fragment {
                None => (0, 0x4000),
                Some(f) => (f.id as u16, (f.offset / 8) as u16 | u16::from(f.more) << 13),
            };
            packet.extend([0x45, 0]);
            packet.extend(((20 + len) as u16).to_be_bytes());
            packet.extend(id.to_be_bytes());
            packet.extend(flags.to_be_bytes());
            packet.extend([HOP_LIMIT, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = checksum::of(checksum::sum(&packet[at..]));
            packet[at + 10..at + 12].copy_from_slice(&sum);
        }
        (source, destination) => {
            packet.extend(IPV6.to_be_bytes());
            let (next, extra) = match fragment {
                None => (protocol, 0),
                Some(_) => (FRAGMENT, 8),
            };
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(((extra + len) as u16).to_be_bytes());
            // What is about neighbours must not have been forwarded (RFC 4861).
            let hops = if protocol == ICMPV6 { 255 } else { HOP_LIMIT };
            packet.extend([next, hops]);
            for address in [source, destination] {
                packet.extend(match address {
                    IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                    IpAddr::V6(a) => a.octets(),
                });
            }
            if let Some(f) = fragment {
                packet.extend([protocol, 0]);
                packet.extend((f.offset as u16 | u16::from(f.more)).to_be_bytes());
                packet.extend(f.id.to_be_bytes());
            }
        }
    }
}

/// Finished packets with `payload`: several if one would be longer than `mtu`.
pub fn packets(
    to: [u8; 6],
    from: [u8; 6],
    addresses: (IpAddr, IpAddr),
    protocol: u8,
    payload: &[u8],
    mtu: usize,
) -> Vec<Vec<u8>> {
    let header = if addresses.0.is_ipv4() { 20 } else { 40 };
    if header + payload.len() <= mtu {
        let mut packet = begin(to, from, addresses, protocol, payload.len());
        packet.extend_from_slice(payload);
        return vec![packet];
    }
    let extra = if addresses.0.is_ipv4() { 0 } else { 8 };
    let room = (mtu - header - extra) & !7;
    let mut id = [0; 4];
    // Nothing depends on it but that it is another one the next time.
    let _ = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
    let fragments = payload.len().div_ceil(room);
    let parts = payload.chunks(room).enumerate().map(|(n, part)| {
        let fragment = Fragment {
            id: u32::from_be_bytes(id),
            offset: n * room,
            more: n + 1 < fragments,
        };
        let mut packet = Vec::with_capacity(HEADER + ETHERNET + 48 + part.len());
        put(
            &mut packet,
            to,
            from,
            addresses,
            protocol,
            part.len(),
            Some(fragment),
        );
        packet.extend_from_slice(part);
        packet
    });
    parts.collect()
}
