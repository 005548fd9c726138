//! The network in user mode, seen by a guest with smoltcp's TCP/IP, and by programs on the host.

#[path = "user/guest.rs"]
mod guest;

use donjon_net::{User, UserNet};
use guest::Guest;
use smoltcp::socket::dhcpv4;
use smoltcp::socket::tcp::State;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

fn loopback() -> UserNet {
    UserNet {
        host_loopback: true,
        ..UserNet::default()
    }
}

/// The host's loopback, as the guest sees it.
fn gateway(guest: &Guest, v6: bool) -> IpAddr {
    match v6 {
        true => guest.addresses.gateway6.into(),
        false => guest.addresses.gateway.into(),
    }
}

fn listener(v6: bool) -> (TcpListener, u16) {
    let listener = TcpListener::bind(if v6 { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Bytes that tell where they belong.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|n| ((n + seed) * 31 ^ (n >> 8) ^ (n >> 16)) as u8)
        .collect()
}

#[test]
fn addresses_are_handed_out() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.1\nsearch example.org\n").unwrap();
    let user = User::with_resolver(&UserNet::default(), Some(1400), &file).unwrap();
    let mut guest = Guest::without_address(user, 1400);
    let mut dhcp = dhcpv4::Socket::new();
    let buffer = Box::leak(Box::new([0; 1500]));
    dhcp.set_receive_packet_buffer(buffer);
    let dhcp = guest.sockets.add(dhcp);
    let (config, packet) = guest.until(|g| match g.sockets.get_mut::<dhcpv4::Socket<'_>>(dhcp).poll() {
        Some(dhcpv4::Event::Configured(c)) => {
            let packet = c.packet.unwrap().into_inner().to_vec();
            Some(((c.address, c.router, c.dns_servers.clone()), packet))
        }
        _ => None,
    });
    assert_eq!(config.0.to_string(), "10.0.2.15/24");
    assert_eq!(config.1, Some(Ipv4Addr::new(10, 0, 2, 2)));
    assert_eq!(config.2[..], [Ipv4Addr::new(10, 0, 2, 3)]);
    let has = |option: &[u8]| packet.windows(option.len()).any(|w| w == option);
    assert!(
        has(b"\x0f\x0bexample.org") && has(&[26, 2, 1400_u16.to_be_bytes()[0], 1400_u16.to_be_bytes()[1]])
    );
}

fn both_ways(v6: bool, undone: bool, lose: usize) {
    let (listener, port) = listener(v6);
    let (up, down) = (pattern(3_000_000, 1), pattern(3_000_000, 2));
    let (expected, sent) = (up.clone(), down.clone());
    let host = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = vec![];
        stream.read_to_end(&mut got).unwrap();
        writing.join().unwrap();
        assert!(got == expected);
    });
    let mut guest = match undone {
        true => Guest::undone(&loopback()),
        false => Guest::new(&loopback()),
    };
    guest.card.lose = lose;
    let to = (gateway(&guest, v6), port);
    let handle = guest.connected(to);
    let (mut left, mut got) = (&up[..], vec![]);
    guest.until(|g| {
        let socket = g.tcp(handle);
        if let Ok(n) = socket.send_slice(left) {
            left = &left[n..];
            if left.is_empty() {
                socket.close();
            }
        }
        while socket.can_recv() {
            socket.recv(|b| (b.len(), got.extend_from_slice(b))).unwrap();
        }
        (left.is_empty() && !socket.may_recv()).then_some(())
    });
    assert!(got == down);
    guest.until(|g| (!g.tcp(handle).is_active() || g.tcp(handle).state() == State::TimeWait).then_some(()));
    host.join().unwrap();
}

#[test]
fn much_goes_both_ways() {
    both_ways(false, false, 0);
    both_ways(true, false, 0);
}

#[test]
fn much_goes_both_ways_in_large_packets() {
    both_ways(false, true, 0);
    both_ways(true, true, 0);
}

#[test]
fn what_the_guest_loses_comes_again() {
    both_ways(false, false, 97);
    both_ways(false, true, 41);
}
