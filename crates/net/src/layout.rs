//! Where the headers are in a frame that is to be cut up.

use crate::header::{ETHERNET, Header, Malformed};
use crate::offloads::Offloads;
use crate::segment::MAX_SEGMENTS;

const VLAN: [u16; 2] = [0x8100, 0x88a8];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Protocol numbers that are extension headers to skip: hop-by-hop and destination options (RFC 8200 §4).
const OPTIONS: [u8; 2] = [0, 60];
/// As many of them, and of VLAN tags, as are looked at.
const EXTENSIONS: usize = 4;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// A frame of TCP or UDP over IP: offsets in it, all of them inside.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The IP header.
    pub network: usize,
    /// The TCP or UDP header.
    pub transport: usize,
    /// The payload.
    pub headers: usize,
    /// Whether it is IPv6.
    pub v6: bool,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Bytes of payload in each segment.
    pub size: usize,
}

impl Layout {
    /// Finds the headers in the first bytes of a frame, `head`, and checks that they are what `header` says.
    pub fn new(header: &Header, head: &[u8], len: usize) -> Result<Self, Malformed> {
        // What the frame has to be, where its checksum is, and over which IP.
        let (protocol, checksum, v6) = match header.gso_type & !Header::GSO_ECN {
            Header::GSO_TCPV4 => (TCP, 16, Some(false)),
            Header::GSO_TCPV6 => (TCP, 16, Some(true)),
            Header::GSO_UDP_L4 if header.gso_type & Header::GSO_ECN == 0 => (UDP, 6, None),
            _ => return Err(Malformed::Type(header.gso_type)),
        };
        let size = usize::from(header.gso_size);
        let layout = Self::find(head, size).ok_or(Malformed::Headers)?;
        // Without NEEDS_CSUM nobody has checked where the checksum is (virtio 1.2 §5.1.6.2).
        let fits = header.flags & Header::NEEDS_CSUM != 0
            && layout.protocol == protocol
            && usize::from(header.csum_start) == layout.transport
            && header.csum_offset == checksum
            && v6.is_none_or(|v6| layout.v6 == v6);
        if !fits {
            return Err(Malformed::Headers);
        }
        if size == 0 || (len - layout.headers).div_ceil(size) > MAX_SEGMENTS {
            return Err(Malformed::Segments(header.gso_size));
        }
        Ok(layout)
    }

    /// What a receiver must take to be given the packet in one piece.
    pub fn needs(&self, header: &Header) -> Offloads {
        let kind = match (self.protocol, self.v6) {
            (TCP, false) => Offloads::TSO4,
            (TCP, true) => Offloads::TSO6,
            (_, false) => Offloads::USO4,
            (_, true) => Offloads::USO6,
        };
        let ecn = match header.gso_type & Header::GSO_ECN {
            0 => Offloads::NONE,
            _ => Offloads::ECN,
        };
        Offloads::CSUM | kind | ecn
    }

    fn find(head: &[u8], size: usize) -> Option<Self> {
        let byte = |at: usize| head.get(at).copied();
        let word = |at: usize| Some(u16::from_be_bytes([byte(at)?, byte(at + 1)?]));
        let mut network = ETHERNET;
        for _ in 0..EXTENSIONS {
            if !VLAN.contains(&word(network - 2)?) {
                break;
            }
            network += 4;
        }
        let v6 = match (word(network - 2)?, byte(network)? >> 4) {
            (IPV4, 4) => false,
            (IPV6, 6) => true,
            _ => return None,
        };
        let (protocol, transport) = if v6 {
            let (mut protocol, mut at) = (byte(network + 6)?, network + 40);
            for _ in 0..EXTENSIONS {
                if !OPTIONS.contains(&protocol) {
                    break;
                }
                (protocol, at) = (byte(at)?, at + 8 * (usize::from(byte(at + 1)?) + 1));
            }
            (protocol, at)
        } else {
            let header = usize::from(byte(network)? & 15) * 4;
            // A fragment is no whole packet.
            if header < 20 || word(network + 6)? & 0x3fff != 0 {
                return None;
            }
            (byte(network + 9)?, network + header)
        };
        let header = match protocol {
            TCP => Some(usize::from(byte(transport + 12)? >> 4) * 4).filter(|n| *n >= 20)?,
            UDP => 8,
            _ => return None,
        };
        let headers = transport + header;
        // They have all been seen.
        (headers <= head.len()).then_some(Self {
            network,
            transport,
            headers,
            v6,
            protocol,
            size,
        })
    }
}
