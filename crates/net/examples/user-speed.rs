//! How fast a network in user mode is: a guest that does no more than it must, and a program on the host.
//!
//! `cargo run --release -p donjon-net --example user-speed`

use donjon_net::{Backend, HEADER, Header, Offloads, Port, ROOM, User, UserNet};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(2);
const GUEST: [u8; 4] = [10, 0, 2, 15];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];
const MAC: [u8; 12] = [0x52, 0x55, 10, 0, 2, 2, 2, 0, 0, 0, 0, 1];
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

struct Guest {
    port: Arc<dyn Port>,
    to: u16,
    seq: u32,
    ack: u32,
    /// The first number that must not be sent.
    edge: u32,
    room: Vec<u8>,
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Headers of a packet with `len` bytes behind the IP header.
fn ip(protocol: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![0; HEADER];
    packet.extend(MAC);
    packet.extend([8, 0, 0x45, 0]);
    packet.extend(((20 + len) as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(GUEST);
    packet.extend(GATEWAY);
    let check = !sum(&packet[HEADER + 14..]);
    packet[HEADER + 24..HEADER + 26].copy_from_slice(&check.to_be_bytes());
    packet
}

impl Guest {
    fn connect(port: Arc<dyn Port>, to: u16) -> std::io::Result<Self> {
        let mut guest = Self {
            port,
            to,
            seq: 1,
            ack: 0,
            edge: 0,
            room: vec![0; ROOM],
        };
        guest.send(SYN, &[], 0)?;
        guest.seq += 1;
        guest.wait()?;
        guest.send(ACK, &[], 0)?;
        Ok(guest)
    }

    fn send(&self, flags: u8, payload: &[u8], gso: u16) -> std::io::Result<()> {
        let options: &[u8] = if flags & SYN != 0 {
            &[2, 4, 5, 0xb4, 1, 3, 3, 7]
        } else {
            &[]
        };
        let mut packet = ip(6, 20 + options.len() + payload.len());
        packet.extend(40000u16.to_be_bytes());
        packet.extend(self.to.to_be_bytes());
        packet.extend(self.seq.to_be_bytes());
        packet.extend(self.ack.to_be_bytes());
        packet.extend([(5 + options.len() as u8 / 4) << 4, flags, 0x7f, 0xff, 0, 0, 0, 0]);
        packet.extend(options);
        packet.extend(payload);
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
        self.port.send(&&packet[..])
    }

    /// Takes one packet, if there is one; how many bytes of data it had.
    fn receive(&mut self) -> Option<usize> {
        let len = self.port.receive(&mut &mut self.room[..]).ok()?;
        let packet = &self.room[..len];
        if packet[HEADER + 12..HEADER + 14] == [8, 6] || packet[HEADER + 23] != 6 {
            return Some(0);
        }
        let at = HEADER + 34;
        let long = |at: usize| u32::from_be_bytes(*packet[at..].first_chunk().expect("long enough"));
        let data = len - at - usize::from(packet[at + 12] >> 4) * 4;
        let syn = packet[at + 13] & SYN != 0;
        let window =
            u32::from(u16::from_be_bytes([packet[at + 14], packet[at + 15]])) << if syn { 0 } else { 8 };
        self.edge = long(at + 8).wrapping_add(window);
        self.ack = long(at + 4).wrapping_add(data as u32 + u32::from(syn));
        Some(data)
    }

    fn wait(&mut self) -> std::io::Result<usize> {
        loop {
            if let Some(data) = self.receive() {
                return Ok(data);
            }
            poll(
                &mut [PollFd::from_borrowed_fd(self.port.fd(), PollFlags::IN)],
                None,
            )?;
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let net = UserNet {
        host_loopback: true,
        ..UserNet::default()
    };
    for (what, offloads, size) in [
        ("64 KiB packets", Offloads::ALL, 64240),
        ("1500-byte packets", Offloads::CSUM, 1460),
    ] {
        let report = |way: &str, bytes: usize, start: Instant| {
            let rate = bytes as f64 * 8e-9 / start.elapsed().as_secs_f64();
            println!("TCP {way} in {what}: {rate:.2} Gbit/s");
        };
        let user = User::start(&net, None)?;
        user.set_offloads(offloads)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let to = listener.local_addr()?.port();

        let mut guest = Guest::connect(user.queue(0)?, to)?;
        let mut host = listener.accept()?.0;
        let sink = std::thread::spawn(move || {
            let (mut buffer, mut all) = (vec![0; 1 << 18], 0);
            while let Ok(n @ 1..) = host.read(&mut buffer) {
                all += n;
            }
            all
        });
        let (start, payload) = (Instant::now(), vec![7; size]);
        while start.elapsed() < TIME {
            while guest.receive().is_some() {}
            let mut free = guest.edge.wrapping_sub(guest.seq) as i32 as usize;
            while free >= size && free < 1 << 30 {
                guest.send(ACK, &payload, if size > 1460 { 1460 } else { 0 })?;
                guest.seq = guest.seq.wrapping_add(size as u32);
                free -= size;
            }
            guest.wait()?;
        }
        drop((guest, user));
        report(
            "from the guest",
            sink.join().map_err(|_| "the host's program failed")?,
            start,
        );

        let user = User::start(&net, None)?;
        user.set_offloads(offloads)?;
        let mut guest = Guest::connect(user.queue(0)?, to)?;
        let mut host = listener.accept()?.0;
        std::thread::spawn(move || while host.write_all(&[7; 1 << 18]).is_ok() {});
        let (start, mut bytes, mut unacknowledged) = (Instant::now(), 0, 0);
        while start.elapsed() < TIME {
            let data = guest.receive();
            (bytes, unacknowledged) = (bytes + data.unwrap_or(0), unacknowledged + data.unwrap_or(0));
            // As Linux does: what it is given with PSH it acknowledges when the program has it.
            if unacknowledged >= 2 * 1460 || (data.is_none() && unacknowledged > 0) {
                guest.send(ACK, &[], 0)?;
                unacknowledged = 0;
            } else if data.is_none() {
                poll(
                    &mut [PollFd::from_borrowed_fd(guest.port.fd(), PollFlags::IN)],
                    None,
                )?;
            }
        }
        report("to the guest", bytes, start);
    }

    let user = User::start(&net, None)?;
    let port = user.queue(0)?;
    let host = UdpSocket::bind("127.0.0.1:0")?;
    let mut datagram = ip(17, 8 + 1400);
    datagram.extend(40000u16.to_be_bytes());
    datagram.extend(host.local_addr()?.port().to_be_bytes());
    datagram.extend([5, 0x80, 0, 0]);
    datagram.resize(datagram.len() + 1400, 7);
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        port.send(&&datagram[..])?;
        sent += 1;
    }
    println!(
        "UDP from the guest: {:.0} datagrams/s",
        f64::from(sent) / start.elapsed().as_secs_f64()
    );
    Ok(())
}
