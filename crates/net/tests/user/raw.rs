//! A guest whose every segment is chosen.

use crate::common;
use donjon_net::{HEADER, Header, Port, ROOM};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 0x10;

/// A connection of its own to a port of the gateway's.
pub struct Raw {
    queue: Arc<dyn Port>,
    to: u16,
    /// What it sends next, and has got.
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
}

/// What it is told.
#[derive(Debug, PartialEq)]
pub struct Told {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub data: Vec<u8>,
}

impl Raw {
    /// Connects, without window scaling.
    pub fn connect(queue: Arc<dyn Port>, to: u16) -> Self {
        let mut raw = Self {
            queue,
            to,
            seq: 1_000_000,
            ack: 0,
            window: 0xffff,
        };
        raw.send(SYN, b"", 0);
        raw.seq += 1;
        let told = raw.told();
        assert_eq!((told.flags, told.ack), (SYN | ACK, raw.seq));
        raw.ack = told.seq.wrapping_add(1);
        raw.send(ACK, b"", 0);
        raw
    }

    /// Sends a segment, or several of `gso` bytes in one.
    pub fn send(&self, flags: u8, data: &[u8], gso: u16) {
        let mut packet = vec![0; HEADER];
        packet.extend([0x52, 0x55, 10, 0, 2, 2, 2, 0, 0, 0, 0, 0x15, 8, 0, 0x45, 0]);
        packet.extend((40 + data.len() as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        let sum = !(common::sum(&packet[26..]) as u16);
        packet[36..38].copy_from_slice(&sum.to_be_bytes());
        packet.extend([0xc3, 0x50]);
        packet.extend(self.to.to_be_bytes());
        packet.extend(self.seq.to_be_bytes());
        packet.extend(self.ack.to_be_bytes());
        packet.extend([0x50, flags]);
        packet.extend(self.window.to_be_bytes());
        packet.extend([0, 0, 0, 0]);
        packet.extend(data);
        let header = Header {
            flags: Header::NEEDS_CSUM,
            gso_type: if gso > 0 { Header::GSO_TCPV4 } else { 0 },
            hdr_len: 54,
            gso_size: gso,
            csum_start: 34,
            csum_offset: 16,
            num_buffers: 0,
        };
        packet[..HEADER].copy_from_slice(&header.to_bytes());
        self.queue.send(&&packet[..]).unwrap();
    }

    /// What it is told now.
    pub fn told_now(&self) -> Option<Told> {
        let mut room = vec![0; ROOM];
        loop {
            let len = self.queue.receive(&mut &mut room[..]).ok()?;
            let ip = &room[HEADER + 14..len];
            if room[HEADER + 12..HEADER + 14] != [8, 0] || ip[9] != 6 {
                continue;
            }
            let tcp = &ip[20..];
            let long = |at: usize| u32::from_be_bytes(*tcp[at..].first_chunk().unwrap());
            return Some(Told {
                flags: tcp[13] & !8,
                seq: long(4),
                ack: long(8),
                window: u16::from_be_bytes([tcp[14], tcp[15]]),
                data: tcp[usize::from(tcp[12] >> 4) * 4..].to_vec(),
            });
        }
    }

    /// What it is told next.
    #[track_caller]
    pub fn told(&self) -> Told {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(told) = self.told_now() {
                return told;
            }
            assert!(Instant::now() < deadline, "it is told nothing");
            std::thread::yield_now();
        }
    }
}
