//! Doing what a packet's sender left undone and its receiver does not take.

use crate::checksum;
use crate::header::{Checked, HEAD, HEADER, Header, Left, MAX_PACKET, MIN_PACKET, Malformed};
use crate::layout::{Layout, TCP};
use crate::offloads::Offloads;

/// Segments in one packet at most, so that a short packet does not turn into very many.
pub const MAX_SEGMENTS: usize = 1024;

const _: () = assert!(MAX_PACKET - MIN_PACKET <= u16::MAX as usize);

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A packet from somebody who may be hostile, as the packets that a receiver takes.
///
/// That is one, with the checksum put in if need be, or the segments of a large one with what TCP, UDP and IP want
/// in each, made when they are asked for.
#[derive(Debug)]
pub struct Segments {
    packet: Vec<u8>,
    checked: Checked,
    accepted: Offloads,
    /// Where in the frame the next segment's payload begins; nowhere at the end.
    next: Option<usize>,
    /// How many there were.
    index: u16,
}

impl Segments {
    /// Takes a packet apart for a receiver that accepts these.
    pub fn new(packet: Vec<u8>, accepted: Offloads) -> Result<Self, Malformed> {
        let checked = Checked::new(&packet[..packet.len().min(HEAD)], packet.len())?;
        let next = match checked.left {
            Left::Segmentation(layout) => layout.headers,
            _ => 0,
        };
        Ok(Self {
            packet,
            checked,
            accepted,
            next: Some(next),
            index: 0,
        })
    }

    /// Puts the next packet, with its header, into `out`; false if there is no more.
    pub fn next(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(start) = self.next else { return false };
        out.clear();
        match self.checked.left {
            Left::Segmentation(layout) if !self.checked.suits(self.accepted) => {
                let frame_len = self.packet.len() - HEADER;
                let end = frame_len.min(start + layout.size);
                self.next = (end < frame_len).then_some(end);
                self.segment(&layout, start..end, out);
                self.index += 1;
            }
            _ => {
                self.next = None;
                self.whole(out);
            }
        }
        true
    }

    /// What the packet was in, to be used again.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.packet
    }

    fn whole(&self, out: &mut Vec<u8>) {
        let mut header = self.checked.header;
        out.extend_from_slice(&self.packet);
        if let Left::Checksum = self.checked.left
            && !self.checked.suits(self.accepted)
        {
            let start = HEADER + usize::from(header.csum_start);
            let at = start + usize::from(header.csum_offset);
            // The field has the pseudo header's sum already.
            let sum = checksum::of(checksum::sum(&out[start..]));
            out[at..at + 2].copy_from_slice(&sum);
            header = PLAIN;
        }
        out[..HEADER].copy_from_slice(&header.to_bytes());
    }

    fn segment(&self, layout: &Layout, payload: std::ops::Range<usize>, out: &mut Vec<u8>) {
        let frame = &self.packet[HEADER..];
        let first = payload.start == layout.headers;
        let last = payload.end == frame.len();
        let offset = (payload.start - layout.headers) as u32;
        out.extend_from_slice(&PLAIN.to_bytes());
        out.extend_from_slice(&frame[..layout.headers]);
        out.extend_from_slice(&frame[payload]);

        let (link, transport) = out[HEADER..].split_at_mut(layout.transport);
        let network = &mut link[layout.network..];
        // No packet has more behind its Ethernet header than 16 bits can say.
        let transport_len = transport.len() as u16;
        let network_len = network.len() as u16 + transport_len;
        let addresses = if layout.v6 {
            set(network, 4, network_len - 40);
            8..40
        } else {
            set(network, 2, network_len);
            let id = u16::from_be_bytes([network[4], network[5]]);
            set(network, 4, id.wrapping_add(self.index));
            set(network, 10, 0);
            let sum = checksum::of(checksum::sum(network));
            network[10..12].copy_from_slice(&sum);
            12..20
        };
        let field = if layout.protocol == TCP {
            let sequence = u32::from_be_bytes(*transport[4..].first_chunk().expect("20 bytes at least"));
            transport[4..8].copy_from_slice(&sequence.wrapping_add(offset).to_be_bytes());
            if !last {
                transport[13] &= !(FIN | PSH);
            }
            // Congestion was reduced once (RFC 3168 §6.1.2).
            if !first {
                transport[13] &= !CWR;
            }
            16
        } else {
            set(transport, 4, transport_len);
            6
        };
        set(transport, field, 0);
        let pseudo =
            checksum::sum(&network[addresses]) + u64::from(layout.protocol) + u64::from(transport_len);
        let sum = checksum::of(pseudo + checksum::sum(transport));
        transport[field..field + 2].copy_from_slice(&sum);
    }
}

/// Of a packet in which nothing is left undone.
const PLAIN: Header = Header {
    flags: 0,
    gso_type: Header::GSO_NONE,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
    num_buffers: 1,
};

fn set(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
