//! TCP headers (RFC 9293 §3.1, RFC 7323 §2).

use crate::checksum;
use crate::header::{HEADER, Header};
use crate::user::ip;
use std::net::SocketAddr;
use std::ops::Range;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
/// Bytes of a header without options.
pub const LEN: usize = 20;
/// Largest shift of a window (RFC 7323 §2.3).
const MAX_SHIFT: u8 = 14;

/// What the header of one from the guest says.
#[derive(Clone, Debug)]
pub struct Segment {
    pub mac: [u8; 6],
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub mss: Option<u16>,
    pub shift: Option<u8>,
    /// Where in the packet, which begins with virtio's header, the data is.
    pub data: Range<usize>,
}

impl Segment {
    /// Finds out about the header in a frame, of which the first bytes are here.
    pub fn parse(mac: [u8; 6], packet: &ip::Ip, frame: &[u8]) -> Option<Self> {
        let at = packet.payload.start;
        let head: &[u8; LEN] = frame
            .get(at..packet.payload.end.min(frame.len()))?
            .first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let long = |at: usize| u32::from_be_bytes(*head[at..].first_chunk().expect("20 bytes"));
        let len = usize::from(head[12] >> 4) * 4;
        if len < LEN || at + len > packet.payload.end {
            return None;
        }
        let (mss, shift) = options(frame.get(at + LEN..at + len)?);
        Some(Self {
            mac,
            from: (packet.source, word(0)).into(),
            to: (packet.destination, word(2)).into(),
            seq: long(4),
            ack: long(8),
            flags: head[13],
            window: word(14),
            mss,
            shift,
            data: HEADER + at + len..HEADER + packet.payload.end,
        })
    }

    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// What it takes of the sequence space.
    pub fn len(&self) -> u32 {
        self.data.len() as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }
}

/// Maximum segment size and window scale, if they are there.
fn options(mut bytes: &[u8]) -> (Option<u16>, Option<u8>) {
    let (mut mss, mut shift) = (None, None);
    loop {
        let len = match bytes {
            [] | [0, ..] => return (mss, shift),
            [1, ..] => 1,
            [_, len, ..] if (2..=bytes.len()).contains(&usize::from(*len)) => usize::from(*len),
            _ => return (mss, shift),
        };
        match bytes[..len] {
            [2, 4, high, low] => mss = Some(u16::from_be_bytes([high, low])),
            [3, 3, s] => shift = Some(s.min(MAX_SHIFT)),
            _ => {}
        }
        bytes = &bytes[len..];
    }
}

/// What to say in a header.
#[derive(Clone, Copy, Debug, Default)]
pub struct Say {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// In options, those of a SYN.
    pub mss: Option<u16>,
    pub shift: Option<u8>,
}

/// Who says what to whom.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    pub from: SocketAddr,
    pub to: SocketAddr,
}

impl Ends {
    /// Bytes of all headers of a segment without options.
    pub fn headers(&self) -> usize {
        HEADER + crate::header::ETHERNET + self.ip() + LEN
    }

    /// Bytes of the IP header.
    pub fn ip(&self) -> usize {
        if self.from.is_ipv4() { 20 } else { 40 }
    }

    /// A packet as far as its data, of which there are `len` bytes. The checksum is that of the pseudo header.
    fn begin(&self, say: Say, len: usize) -> Vec<u8> {
        let mut options = [0; 8];
        let mut n = 0;
        if let Some(mss) = say.mss {
            let [high, low] = mss.to_be_bytes();
            options[..4].copy_from_slice(&[2, 4, high, low]);
            n = 4;
        }
        if let Some(shift) = say.shift {
            options[n..n + 4].copy_from_slice(&[1, 3, 3, shift]);
            n += 4;
        }
        let total = LEN + n + len;
        let addresses = (self.from.ip(), self.to.ip());
        let mut packet = ip::begin(self.to_mac, self.from_mac, addresses, ip::TCP, total);
        packet.extend(self.from.port().to_be_bytes());
        packet.extend(self.to.port().to_be_bytes());
        packet.extend(say.seq.to_be_bytes());
        packet.extend(say.ack.to_be_bytes());
        // In units of four bytes.
        packet.extend([((LEN + n) * 4) as u8, say.flags]);
        packet.extend(say.window.to_be_bytes());
        let pseudo = checksum::fold(ip::pseudo(addresses.0, addresses.1, ip::TCP, total));
        packet.extend(pseudo.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend_from_slice(&options[..n]);
        packet
    }

    /// A packet without data.
    pub fn bare(&self, say: Say) -> Vec<u8> {
        self.whole(say, &[])
    }

    /// A packet with data, its checksum put in.
    pub fn whole(&self, say: Say, data: &[u8]) -> Vec<u8> {
        let mut packet = self.begin(say, data.len());
        let at = self.headers() - LEN;
        let sum = checksum::of(checksum::sum(&packet[at..]) + checksum::sum(data));
        packet[at + 16..at + 18].copy_from_slice(&sum);
        packet.extend_from_slice(data);
        packet
    }

    /// The headers of a packet with `len` bytes of data, which leaves checksum and segmentation to the guest.
    pub fn offloaded(&self, say: Say, len: usize, mss: usize) -> Vec<u8> {
        let mut packet = self.begin(say, len);
        let transport = self.headers() - LEN - HEADER;
        let mut header = Header {
            flags: Header::NEEDS_CSUM,
            csum_start: transport as u16,
            csum_offset: 16,
            num_buffers: 1,
            ..Header::default()
        };
        if len > mss {
            header.gso_type = if self.from.is_ipv4() {
                Header::GSO_TCPV4
            } else {
                Header::GSO_TCPV6
            };
            header.gso_size = mss as u16;
            header.hdr_len = (transport + LEN) as u16;
        }
        packet[..HEADER].copy_from_slice(&header.to_bytes());
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_are_found() {
        assert_eq!(options(&[2, 4, 5, 0xb4, 1, 3, 3, 7]), (Some(1460), Some(7)));
        assert_eq!(
            options(&[4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 200]),
            (None, Some(14))
        );
        assert_eq!(options(&[0, 2, 4, 5, 0xb4]), (None, None));
        assert_eq!(options(&[2, 0]), (None, None));
        assert_eq!(options(&[2]), (None, None));
        assert_eq!(options(&[2, 3, 1]), (None, None));
    }

    proptest! {
        #[test]
        fn any_options_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            options(&bytes);
        }
    }
}
