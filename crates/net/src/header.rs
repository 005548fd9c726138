//! The header in front of every packet, and whether it fits the packet.

use crate::layout::Layout;
use crate::offloads::Offloads;

/// Bytes of a [`Header`].
pub const HEADER: usize = 12;
/// Bytes of a receive buffer into which every packet goes (virtio 1.2 §5.1.6.3.1).
pub const ROOM: usize = 65562;
/// Bytes of a packet at most, with its header. It never fills a buffer of [`ROOM`] bytes: one that does has been
/// cut off.
pub const MAX_PACKET: usize = ROOM - 1;
/// Bytes of the shortest packet: header, destination, source and type.
pub(crate) const MIN_PACKET: usize = HEADER + ETHERNET;
/// Bytes at the beginning of a packet in which all headers are found if they matter.
pub(crate) const HEAD: usize = 256;
/// Bytes of an Ethernet header without tags.
pub(crate) const ETHERNET: usize = 14;

/// `struct virtio_net_hdr_v1` (virtio 1.2 §5.1.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// [`Self::NEEDS_CSUM`] and others.
    pub flags: u8,
    /// One of the `GSO_*` here, perhaps with [`Self::GSO_ECN`].
    pub gso_type: u8,
    /// How long the packet's headers are: a hint.
    pub hdr_len: u16,
    /// Bytes of payload in each segment.
    pub gso_size: u16,
    /// Where in the frame the sum begins.
    pub csum_start: u16,
    /// Where behind that the checksum belongs.
    pub csum_offset: u16,
    /// How many receive buffers the packet is in.
    pub num_buffers: u16,
}

impl Header {
    /// In `flags`: a checksum is to be put in, from `csum_start` on.
    pub const NEEDS_CSUM: u8 = 1;
    /// In `flags`: the checksum has been looked at. Only a device may say so.
    pub const DATA_VALID: u8 = 2;
    /// In `gso_type`: one segment.
    pub const GSO_NONE: u8 = 0;
    /// In `gso_type`: TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// In `gso_type`: TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// In `gso_type`: UDP.
    pub const GSO_UDP_L4: u8 = 5;
    /// In `gso_type`: the TCP header has the CWR flag.
    pub const GSO_ECN: u8 = 0x80;

    /// From a packet's first bytes.
    pub fn from_bytes(bytes: [u8; HEADER]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: word(10),
        }
    }

    /// As a packet's first bytes.
    pub fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
            self.num_buffers,
        ];
        for (to, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// The header does not fit the packet, which must not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// Too short for the headers of virtio and Ethernet, or longer than any packet.
    #[error("a packet of {0} bytes")]
    Length(usize),
    /// The checksum is not inside the packet.
    #[error("a checksum outside the packet")]
    Checksum,
    /// Segmentation that does not exist or that is not passed on.
    #[error("segmentation of type {0:#x}")]
    Type(u8),
    /// The frame's own headers are not those that segmentation needs.
    #[error("segmentation of a frame whose headers are no TCP or UDP over IP, or not those that were said")]
    Headers,
    /// Segments of no size, or too many of them.
    #[error("segments of {0} bytes")]
    Segments(u16),
}

/// What a packet's sender has left undone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left {
    /// Nothing.
    Nothing,
    /// The checksum.
    Checksum,
    /// The checksum and to cut the packet up.
    Segmentation(Layout),
}

/// A header that fits its packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checked {
    /// Without what means nothing or nobody may believe.
    pub header: Header,
    pub left: Left,
    needs: Offloads,
}

impl Checked {
    /// Checks the header of a packet of `len` bytes, of which the first [`HEAD`] are here, or all.
    ///
    /// It comes from another domain. What a receiver is told must be as safe as what the host's kernel would
    /// tell it.
    pub fn new(head: &[u8], len: usize) -> Result<Self, Malformed> {
        if !(MIN_PACKET..=MAX_PACKET).contains(&len) || head.len() < HEAD.min(len) {
            return Err(Malformed::Length(len));
        }
        let (header, head) = head.split_first_chunk::<HEADER>().expect("checked above");
        let (from, frame_len) = (Header::from_bytes(*header), len - HEADER);
        let mut header = Header {
            num_buffers: 1,
            ..Header::default()
        };
        let mut left = Left::Nothing;
        let mut needs = Offloads::NONE;
        if from.flags & Header::NEEDS_CSUM != 0 {
            let (start, offset) = (usize::from(from.csum_start), usize::from(from.csum_offset));
            if start < ETHERNET || start + offset + 2 > frame_len {
                return Err(Malformed::Checksum);
            }
            header.flags = Header::NEEDS_CSUM;
            (header.csum_start, header.csum_offset) = (from.csum_start, from.csum_offset);
            (left, needs) = (Left::Checksum, Offloads::CSUM);
        }
        if from.gso_type != Header::GSO_NONE {
            let layout = Layout::new(&from, head, frame_len)?;
            header.gso_type = from.gso_type;
            header.gso_size = from.gso_size;
            header.hdr_len = layout.headers as u16;
            (left, needs) = (Left::Segmentation(layout), layout.needs(&from));
        }
        Ok(Self { header, left, needs })
    }

    /// Whether someone who takes these can be given the packet as it is, with the header that is here.
    pub fn suits(&self, accepted: Offloads) -> bool {
        accepted.contains(self.needs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: Header, frame: &[u8]) -> Result<Checked, Malformed> {
        let packet = [&header.to_bytes()[..], frame].concat();
        Checked::new(&packet[..packet.len().min(HEAD)], packet.len())
    }

    #[test]
    fn headers_are_little_endian() {
        let bytes = [1, 0x81, 2, 0, 3, 1, 4, 0, 5, 0, 1, 0];
        let header = Header::from_bytes(bytes);
        assert_eq!(
            header,
            Header {
                flags: 1,
                gso_type: 0x81,
                hdr_len: 2,
                gso_size: 0x103,
                csum_start: 4,
                csum_offset: 5,
                num_buffers: 1,
            }
        );
        assert_eq!(header.to_bytes(), bytes);
    }

    #[test]
    fn a_plain_packet_is_said_to_be_one() {
        // Whatever the sender says about things that are not its to say.
        let header = Header {
            flags: Header::DATA_VALID | 0xfc,
            hdr_len: 9,
            gso_size: 7,
            csum_start: 0xffff,
            csum_offset: 0xffff,
            num_buffers: 77,
            ..Header::default()
        };
        let checked = check(header, &[0; 60]).unwrap();
        assert_eq!(checked.header.to_bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert!(checked.suits(Offloads::NONE));
    }

    #[test]
    fn lengths_have_bounds() {
        let plain = Header::default();
        assert_eq!(check(plain, &[0; 13]).unwrap_err(), Malformed::Length(25));
        check(plain, &[0; 14]).unwrap();
        check(plain, &[0; 65549]).unwrap();
        assert_eq!(check(plain, &[0; 65550]).unwrap_err(), Malformed::Length(65562));
        assert_eq!(Checked::new(&[], 0).unwrap_err(), Malformed::Length(0));
    }

    #[test]
    fn checksums_are_inside() {
        let with = |csum_start, csum_offset| Header {
            flags: Header::NEEDS_CSUM,
            csum_start,
            csum_offset,
            ..Header::default()
        };
        let checked = check(with(34, 16), &[0; 60]).unwrap();
        assert!(checked.suits(Offloads::CSUM) && !checked.suits(Offloads::NONE));
        check(with(42, 16), &[0; 60]).unwrap();
        for (start, offset) in [(43, 16), (13, 0), (59, 0), (0xffff, 0xffff), (14, 0xfff0)] {
            assert_eq!(
                check(with(start, offset), &[0; 60]).unwrap_err(),
                Malformed::Checksum
            );
        }
    }
}
