//! Packets, made and looked at without the crate's own means.
#![allow(dead_code)]

pub mod namespace;

use donjon_net::{Backend, HEADER, Header, Port, ROOM, Switch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// What a packet is made of.
#[derive(Clone, Debug)]
pub struct Make {
    pub v6: bool,
    pub tcp: bool,
    pub vlan: bool,
    /// IPv4 or TCP options, or IPv6 destination options, in units of 4 or 8 bytes.
    pub options: usize,
    pub flags: u8,
    pub sequence: u32,
    pub id: u16,
    pub size: u16,
    pub payload: Vec<u8>,
}

pub const TO: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];
pub const FROM: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];

/// RFC 1071, word by word.
pub fn sum(bytes: &[u8]) -> u32 {
    let word = |p: &[u8]| u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).fold(0, |sum, w| {
        let sum = sum + w;
        (sum & 0xffff) + (sum >> 16)
    })
}

fn pseudo(v6: bool, addresses: &[u8], protocol: u8, len: usize) -> u32 {
    assert_eq!(addresses.len(), if v6 { 32 } else { 8 });
    let mut bytes = addresses.to_vec();
    bytes.extend_from_slice(&(len as u32).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, protocol]);
    sum(&bytes)
}

impl Make {
    /// The packet, with its header: its checksum is left out, and it is cut up by nobody if `size` is not zero.
    pub fn packet(&self) -> Vec<u8> {
        let mut frame = [TO, FROM].concat();
        if self.vlan {
            frame.extend_from_slice(&[0x81, 0, 0, 5]);
        }
        let protocol = if self.tcp { 6 } else { 17 };
        let tcp_options = if self.tcp { self.options * 4 } else { 0 };
        let transport_len = if self.tcp { 20 + tcp_options } else { 8 } + self.payload.len();
        let network = frame.len() + 2;
        if self.v6 {
            let extension = if self.options > 0 { 8 * self.options } else { 0 };
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend_from_slice(&((transport_len + extension) as u16).to_be_bytes());
            frame.extend_from_slice(&[if extension > 0 { 60 } else { protocol }, 64]);
            frame.extend((0..32).map(|n| if n == 0 || n == 16 { 0xfd } else { n }));
            if extension > 0 {
                // PadN.
                frame.extend_from_slice(&[protocol, (extension / 8 - 1) as u8, 1, (extension - 4) as u8]);
                frame.resize(frame.len() + extension - 4, 0);
            }
        } else {
            let header = 20 + 4 * self.options;
            frame.extend_from_slice(&[8, 0, 0x40 | (header / 4) as u8, 0]);
            frame.extend_from_slice(&((header + transport_len) as u16).to_be_bytes());
            frame.extend_from_slice(&self.id.to_be_bytes());
            frame.extend_from_slice(&[0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            frame.resize(network + header, 1);
            let check = !sum(&frame[network..]) as u16;
            frame[network + 10..network + 12].copy_from_slice(&check.to_be_bytes());
        }
        let transport = frame.len();
        frame.extend_from_slice(&[0x30, 0x39, 0xd4, 0x31]);
        if self.tcp {
            frame.extend_from_slice(&self.sequence.to_be_bytes());
            frame.extend_from_slice(&[
                0,
                0,
                0,
                9,
                (((20 + tcp_options) / 4) << 4) as u8,
                self.flags,
                1,
                0,
                0,
                0,
                0,
                0,
            ]);
            frame.resize(frame.len() + tcp_options, 1);
        } else {
            frame.extend_from_slice(&(transport_len as u16).to_be_bytes());
            frame.extend_from_slice(&[0, 0]);
        }
        let csum_offset = if self.tcp { 16 } else { 6 };
        let addresses = if self.v6 {
            network + 8..network + 40
        } else {
            network + 12..network + 20
        };
        let check = pseudo(self.v6, &frame[addresses], protocol, transport_len) as u16;
        let at = transport + csum_offset;
        frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
        let headers = frame.len();
        frame.extend_from_slice(&self.payload);
        let mut header = Header {
            flags: Header::NEEDS_CSUM,
            csum_start: transport as u16,
            csum_offset: csum_offset as u16,
            ..Header::default()
        };
        if self.size > 0 {
            header.gso_size = self.size;
            header.hdr_len = headers as u16;
            header.gso_type = match (self.tcp, self.v6) {
                (true, false) => Header::GSO_TCPV4,
                (true, true) => Header::GSO_TCPV6,
                (false, _) => Header::GSO_UDP_L4,
            };
            if self.tcp && self.flags & 0x80 != 0 {
                header.gso_type |= Header::GSO_ECN;
            }
        }
        [&header.to_bytes()[..], &frame].concat()
    }
}

/// What is found in a finished frame.
#[derive(Debug, PartialEq)]
pub struct Seen {
    pub v6: bool,
    pub tcp: bool,
    pub flags: u8,
    pub sequence: u32,
    pub id: u16,
    pub payload: Vec<u8>,
}

/// Reads a finished packet, all of whose lengths and checksums must be right.
pub fn see(packet: &[u8]) -> Seen {
    let (header, frame) = packet.split_at(HEADER);
    assert_eq!(
        header,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        "something is left undone"
    );
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let network = if word(12) == 0x8100 { 18 } else { 14 };
    let v6 = word(network - 2) == 0x86dd;
    let (protocol, transport, addresses) = if v6 {
        assert_eq!(usize::from(word(network + 4)), frame.len() - network - 40);
        match frame[network + 6] {
            60 => (
                frame[network + 40],
                network + 48 + 8 * usize::from(frame[network + 41]),
                8..40,
            ),
            protocol => (protocol, network + 40, 8..40),
        }
    } else {
        assert_eq!(usize::from(word(network + 2)), frame.len() - network);
        let transport = network + 4 * usize::from(frame[network] & 15);
        assert_eq!(sum(&frame[network..transport]), 0xffff, "checksum of IPv4");
        (frame[network + 9], transport, 12..20)
    };
    let len = frame.len() - transport;
    let addresses = &frame[network..][addresses];
    let check = pseudo(v6, addresses, protocol, len) + sum(&frame[transport..]);
    assert_eq!((check & 0xffff) + (check >> 16), 0xffff, "checksum of TCP or UDP");
    let tcp = protocol == 6;
    let headers = match tcp {
        true => transport + usize::from(frame[transport + 12] >> 4) * 4,
        false => {
            assert_eq!(usize::from(word(transport + 4)), len);
            transport + 8
        }
    };
    Seen {
        v6,
        tcp,
        flags: if tcp { frame[transport + 13] } else { 0 },
        sequence: if tcp {
            u32::from_be_bytes(frame[transport + 4..transport + 8].try_into().unwrap())
        } else {
            0
        },
        id: if v6 { 0 } else { word(network + 4) },
        payload: frame[headers..].to_vec(),
    }
}

/// A plain Ethernet frame with a header that says so.
pub fn plain(to: [u8; 6], from: [u8; 6], text: &[u8]) -> Vec<u8> {
    [&[0; HEADER][..], &to, &from, &[0x88, 0xb5], text].concat()
}

/// The next packet, if one is there now.
pub fn next(port: &dyn Port) -> Option<Vec<u8>> {
    let mut packet = vec![0; ROOM];
    match port.receive(&mut &mut packet[..]) {
        Ok(len) => {
            packet.truncate(len);
            Some(packet)
        }
        Err(e) if e.kind() == ErrorKind::WouldBlock => None,
        Err(e) => panic!("receive: {e}"),
    }
}

/// The next packet, waited for.
pub fn wait(port: &dyn Port) -> Vec<u8> {
    loop {
        if let Some(packet) = next(port) {
            return packet;
        }
        let mut fds = [PollFd::from_borrowed_fd(port.fd(), PollFlags::IN)];
        let patience = Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        };
        assert_ne!(poll(&mut fds, Some(&patience)).unwrap(), 0, "nothing comes");
    }
}

/// A port of a switch.
pub fn join(directory: &Path, name: &str) -> (Switch, Arc<dyn Port>) {
    let switch = Switch::join(&directory.join("lan"), &name.parse().unwrap()).unwrap();
    let port = switch.queue(0).unwrap();
    (switch, port)
}

/// One of many addresses.
pub fn address(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, n]
}

/// Everybody.
pub const ALL: [u8; 6] = [0xff; 6];

/// What a packet made by [`plain`] says.
pub fn text(packet: &[u8]) -> &str {
    std::str::from_utf8(&packet[HEADER + 14..]).unwrap()
}
