//! Datagrams, echoes and questions to nameservers through the network in user mode.

mod common;
mod user;

use common::namespace::{inside, ip};
use donjon_net::{Backend, User, UserNet};
use smoltcp::socket::icmp;
use std::io::Write;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};
use user::guest::Guest;
use user::{QUESTION, gateway, heard, listen_icmp, loopback, pattern, world};

/// An answer to a question: the same, with one address.
fn answered(question: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(address);
    answer
}

/// An IPv4 packet of the guest's, with flags and offset as they are in the header.
fn part(to: [u8; 4], flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; donjon_net::HEADER];
    packet.extend([0x52, 0x55, 10, 0, 2, 2, 2, 0, 0, 0, 0, 0x15, 8, 0, 0x45, 0]);
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 9]);
    packet.extend(flags.to_be_bytes());
    packet.extend([64, 17, 0, 0, 10, 0, 2, 15]);
    packet.extend(to);
    let sum = !(common::sum(&packet[26..]) as u16);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// A datagram with its header, from port 4000 and without a checksum.
fn datagram(port: u16, data: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x0f, 0xa0];
    datagram.extend(port.to_be_bytes());
    datagram.extend((8 + data.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    datagram
}

/// What the guest is given next, without its Ethernet header.
fn given(port: &dyn donjon_net::Port) -> Vec<u8> {
    let (mut room, deadline) = (
        vec![0; donjon_net::ROOM],
        Instant::now() + Duration::from_secs(20),
    );
    loop {
        match port.receive(&mut &mut room[..]) {
            Ok(len) => return room[26..len].to_vec(),
            Err(_) => assert!(Instant::now() < deadline, "nothing comes"),
        }
        thread::yield_now();
    }
}

#[test]
fn datagrams_of_all_sizes_are_echoed() {
    for v6 in [false, true] {
        let host = UdpSocket::bind(if v6 { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
        let port = host.local_addr().unwrap().port();
        let echo = thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            loop {
                let (len, from) = host.recv_from(&mut buffer).unwrap();
                host.send_to(&buffer[..len], from).unwrap();
                if len == 1 {
                    return;
                }
            }
        });
        let mut guest = Guest::new(&loopback());
        let to = (gateway(&guest, v6), port);
        let (a, b) = (guest.udp(1234), guest.udp(1235));
        for len in [0, 100, 1400, 1] {
            for handle in [a, b] {
                let data = pattern(len, len);
                guest.udp_send(handle, to, &data);
                let (got, from) = guest.udp_receive(handle);
                assert!(got == data && from.addr == to.0.into() && from.port == port);
                if len == 1 {
                    break;
                }
            }
        }
        echo.join().unwrap();
    }
}

#[test]
fn echoes_come_back() {
    if !inside("echoes_come_back") {
        return;
    }
    world();
    let mut guest = Guest::new(&UserNet::default());
    let handle = listen_icmp(&mut guest, icmp::Endpoint::Ident(0x77));
    for address in [
        "10.0.2.2",
        "10.0.2.3",
        "192.0.2.1",
        "192.0.2.1",
        "fd00::2",
        "2001:db8::1",
    ] {
        let address: IpAddr = address.parse().unwrap();
        let kind = if address.is_ipv4() { 8 } else { 128 };
        let request = [&[kind, 0, 0, 0, 0, 0x77, 0, 1][..], b"payload"].concat();
        let mut request = request;
        if address.is_ipv4() {
            let sum = !(common::sum(&request) as u16);
            request[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
        socket.send_slice(&request, address.into()).unwrap();
        let (reply, from) = heard(&mut guest, handle);
        assert_eq!(from, address);
        assert_eq!(reply[0], if address.is_ipv4() { 0 } else { 129 });
        assert_eq!(reply[4..], request[4..]);
    }
}

#[test]
fn the_hosts_nameservers_are_asked() {
    if !inside("the_hosts_nameservers_are_asked") {
        return;
    }
    world();
    let server = UdpSocket::bind("127.0.0.53:53").unwrap();
    let over_tcp = TcpListener::bind("127.0.0.53:53").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    // The first refuses.
    std::fs::write(&file, "nameserver 127.0.0.52\nnameserver 127.0.0.53\n").unwrap();
    let user = User::with_resolver(&UserNet::default(), None, &file).unwrap();
    let mut guest = Guest::on(user);
    let asked = thread::spawn(move || {
        let mut numbers = vec![];
        for n in 0..8 {
            let mut buffer = [0; 512];
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            let question = &buffer[..len];
            assert_eq!(question[2..], QUESTION[2..]);
            numbers.push(([question[0], question[1]], from.port()));
            // A forged one, and one of something else, are not believed.
            let mut forged = answered(question, [6, 6, 6, 6]);
            forged[0] ^= 1;
            server.send_to(&forged, from).unwrap();
            let mut other = answered(question, [6, 6, 6, 6]);
            other[14] ^= 1;
            server.send_to(&other, from).unwrap();
            server.send_to(&answered(question, [192, 0, 2, n]), from).unwrap();
        }
        numbers
    });
    let handle = guest.udp(3000);
    for n in 0..8 {
        let to: IpAddr = if n % 2 == 0 {
            guest.addresses.dns.into()
        } else {
            guest.addresses.dns6.into()
        };
        guest.udp_send(handle, (to, 53), QUESTION);
        let (answer, from) = guest.udp_receive(handle);
        assert_eq!(answer, answered(QUESTION, [192, 0, 2, n]));
        assert_eq!((from.addr, from.port), (to.into(), 53));
    }
    // Neither its number nor its port can be told beforehand.
    let mut numbers = asked.join().unwrap();
    numbers.sort();
    numbers.dedup_by_key(|(number, _)| *number);
    assert!(
        numbers.len() > 6 && !numbers.iter().any(|(n, _)| n == b"\x12\x34"),
        "{numbers:?}"
    );
    // Over TCP, too.
    let handle = guest.connected((guest.addresses.dns.into(), 53));
    over_tcp.accept().unwrap().0.write_all(b"tcp").unwrap();
    assert_eq!(guest.receive(handle, 3), b"tcp");
    // When nobody answers, that is said.
    std::fs::write(&file, "nameserver 127.0.0.51\n").unwrap();
    thread::sleep(Duration::from_millis(1100));
    let handle = guest.udp(3001);
    guest.udp_send(handle, (guest.addresses.dns.into(), 53), QUESTION);
    let (answer, _) = guest.udp_receive(handle);
    assert_eq!(
        (&answer[..2], answer[2] & 0x80, answer[3] & 15),
        (&QUESTION[..2], 0x80, 2)
    );
}

#[test]
fn what_is_too_long_for_a_link_is_said() {
    if !inside("what_is_too_long_for_a_link_is_said") {
        return;
    }
    world();
    ip("link set lo mtu 1300");
    let host = UdpSocket::bind("192.0.2.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    let user = User::start(&UserNet::default(), None).unwrap();
    let queue = user.queue(0).unwrap();
    let send = |flags, len| {
        let datagram = datagram(port, &pattern(len, 1));
        queue.send(&&part([192, 0, 2, 1], flags, &datagram)[..]).unwrap();
    };
    // Not to be fragmented.
    send(0x4000, 1400);
    let message = given(&*queue);
    assert_eq!((message[9], &message[20..22]), (1, &[3, 4][..]));
    assert_eq!(message[26..28], 1300u16.to_be_bytes());
    // Which packet that was: addresses and ports.
    assert_eq!(message[40..48], [10, 0, 2, 15, 192, 0, 2, 1]);
    assert_eq!(message[48..50], [0x0f, 0xa0]);
    let mut buffer = [0; 2000];
    send(0x4000, 1200);
    assert_eq!(host.recv(&mut buffer).unwrap(), 1200);
    // The host may fragment it.
    send(0, 1400);
    assert_eq!(host.recv(&mut buffer).unwrap(), 1400);
}

#[test]
fn the_gateway_is_a_hop_on_the_way() {
    let user = User::start(&loopback(), None).unwrap();
    let queue = user.queue(0).unwrap();
    for hops in [0, 1] {
        let mut packet = part([192, 0, 2, 1], 0, &datagram(33434, b"who is there?"));
        packet[26 + 8] = hops;
        packet[36..38].copy_from_slice(&[0, 0]);
        let sum = !(common::sum(&packet[26..46]) as u16);
        packet[36..38].copy_from_slice(&sum.to_be_bytes());
        queue.send(&&packet[..]).unwrap();
        let message = given(&*queue);
        assert_eq!(
            (&message[12..16], &message[20..22]),
            (&[10, 0, 2, 2][..], &[11, 0][..])
        );
        assert!(message.ends_with(b"who is there?"));
    }
}

#[test]
fn fragments_are_made_and_put_together() {
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    let user = User::start(&loopback(), None).unwrap();
    let queue = user.queue(0).unwrap();
    let large = pattern(60_000, 10);
    let whole = datagram(port, &large);
    let parts: Vec<_> = whole.chunks(1480).collect();
    for (n, bytes) in parts.iter().enumerate().rev() {
        let flags = (n * 1480 / 8) as u16 | if n + 1 < parts.len() { 0x2000 } else { 0 };
        queue.send(&&part([10, 0, 2, 2], flags, bytes)[..]).unwrap();
    }
    let mut buffer = vec![0; 65536];
    let (len, from) = host.recv_from(&mut buffer).unwrap();
    assert!(buffer[..len] == large);
    host.send_to(&large, from).unwrap();
    let mut got: Vec<u8> = vec![];
    while got.len() < 8 + large.len() {
        let ip = given(&*queue);
        assert!(ip.len() <= 1500);
        let flags = u16::from_be_bytes([ip[6], ip[7]]);
        assert_eq!(usize::from(flags & 0x1fff) * 8, got.len(), "in order");
        got.extend(&ip[20..]);
        assert_eq!(flags & 0x2000 != 0, got.len() < 8 + large.len());
    }
    assert!(got[8..] == large);
}
