//! A network in user mode with a guest that sends any bytes: nothing panics or stays, and what the guest is given is
//! well-formed. Runs in a network namespace of its own, so that nothing goes further than this process.
#![no_main]

use donjon_net::{Backend, HEADER, Header, Offloads, Port, ROOM, Segments, User, UserNet};
use libfuzzer_sys::fuzz_target;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The port of a program that sends everything back.
static ECHO: OnceLock<u16> = OnceLock::new();

/// Where the connection of the guest's that is played properly is.
#[derive(Default)]
struct Tcp {
    seq: u32,
    ack: u32,
}

fn start() -> u16 {
    use nix::sched::{CloneFlags, unshare};
    let root = unshare(CloneFlags::CLONE_NEWNET);
    root.or_else(|_| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET))
        .expect("a network namespace can be made; run as root if users may not");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.expect("ip, of iproute2, starts").success());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

fuzz_target!(|bytes: &[u8]| {
    let port = *ECHO.get_or_init(start);
    let Some((&accepted, mut bytes)) = bytes.split_first() else {
        return;
    };
    let net = UserNet {
        host_loopback: accepted & 0x10 == 0,
        ..UserNet::default()
    };
    let mtu = [1500, 68, 1280, 65520][usize::from(accepted >> 5 & 3)];
    let user = User::start(&net, Some(mtu)).expect("it starts");
    let accepted = Offloads::from_bits(accepted);
    user.set_offloads(accepted).expect("they are known");
    let guest = user.queue(0).expect("a queue");
    let mut tcp = Tcp::default();
    while let Some(rest) = step(&guest, port, &mut tcp, bytes) {
        bytes = rest;
    }
    drain(&guest, &mut tcp);
});

fn step<'a>(guest: &Arc<dyn Port>, port: u16, tcp: &mut Tcp, bytes: &'a [u8]) -> Option<&'a [u8]> {
    match *bytes {
        // A frame of twice so many bytes as it is, with the checksum of an IPv4 header made right, behind an empty header or any.
        [op @ (0 | 3), len, ref rest @ ..] => {
            let (frame, rest) = rest.split_at(rest.len().min(2 * usize::from(len)));
            let mut packet = match op {
                0 => vec![1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0],
                _ => vec![],
            };
            packet.extend(frame);
            if let Some(header) = packet.get_mut(HEADER + 14..HEADER + 34) {
                header[10..12].copy_from_slice(&[0, 0]);
                let words = header.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
                let sum: u32 = words.sum();
                let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            guest.send(&&packet[..]).expect("it goes on");
            Some(rest)
        }
        // A segment of a connection that exists, or nearly.
        [1, flags, seq, ack, len, ref rest @ ..] => {
            let data = usize::from(len) * 64;
            let mut packet = vec![0; HEADER];
            packet.extend([0x52, 0x55, 10, 0, 2, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0]);
            packet.extend(((40 + data) as u16).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
            let words = packet[HEADER + 14..]
                .chunks(2)
                .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
            let sum: u32 = words.sum();
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            packet[HEADER + 24..HEADER + 26].copy_from_slice(&sum.to_be_bytes());
            packet.extend([0xc0, 1]);
            packet.extend(port.to_be_bytes());
            packet.extend(tcp.seq.wrapping_add_signed((seq as i8).into()).to_be_bytes());
            packet.extend(tcp.ack.wrapping_add_signed((ack as i8).into()).to_be_bytes());
            packet.extend([0x50, flags, if seq & 2 == 0 { 0xff } else { 0 }, seq, 0, 0, 0, 0]);
            packet.resize(packet.len() + data, flags);
            let header = Header {
                flags: Header::NEEDS_CSUM,
                csum_start: 34,
                csum_offset: 16,
                ..Header::default()
            };
            packet[..HEADER].copy_from_slice(&header.to_bytes());
            guest.send(&&packet[..]).expect("it goes on");
            let len = data as u32 + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
            tcp.seq = tcp.seq.wrapping_add(len);
            Some(rest)
        }
        [2, wait, ref rest @ ..] => {
            // The other end may take a moment.
            std::thread::sleep(Duration::from_micros(u64::from(wait & 7) * 20));
            drain(guest, tcp);
            Some(rest)
        }
        [_, ref rest @ ..] => Some(rest),
        [] => None,
    }
}

/// Receives what there is. It comes to an end, whatever was sent.
fn drain(guest: &Arc<dyn Port>, tcp: &mut Tcp) {
    let (mut room, start) = (vec![0; ROOM], Instant::now());
    while let Ok(len) = guest.receive(&mut &mut room[..]) {
        let packet = &room[..len];
        assert!(
            Segments::new(packet.to_vec(), Offloads::ALL).is_ok(),
            "{packet:x?}"
        );
        let ip = &packet[HEADER + 14..];
        if packet[HEADER + 12..HEADER + 14] == [8, 0] && ip[9] == 6 {
            let long = |at: usize| u32::from_be_bytes(*ip[at..].first_chunk().expect("a TCP header"));
            let data = ip.len() as u32 - 20 - u32::from(ip[32] >> 4) * 4;
            tcp.ack = long(24).wrapping_add(data + u32::from(ip[33] & 1) + u32::from(ip[33] >> 1 & 1));
        }
        assert!(start.elapsed() < Duration::from_secs(5), "it never ends");
    }
}
