//! Connections of a guest with smoltcp's TCP/IP through the network in user mode, to programs on the host.

mod common;
mod user;

use donjon_net::{User, UserNet};
use smoltcp::socket::dhcpv4;
use smoltcp::socket::tcp::State;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::thread;
use std::time::Duration;
use user::guest::Guest;
use user::{gateway, listener, loopback, pattern};

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

#[test]
fn addresses_are_advertised() {
    let user = User::start(&UserNet::default(), None).unwrap();
    let mut guest = Guest::without_address(user, 1500);
    // fd00:: with what is made of the card's address (RFC 4291, appendix A).
    let made: IpAddr = "fd00::ff:fe00:15".parse().unwrap();
    guest.until(|g| {
        let has = |a: &smoltcp::wire::IpCidr| IpAddr::from(a.address()) == made;
        g.interface.ip_addrs().iter().any(has).then_some(())
    });
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

#[test]
fn each_way_is_shut_down_by_itself() {
    let (listener, port) = listener(false);
    let mut guest = Guest::new(&loopback());
    // The guest first.
    let handle = guest.connected((gateway(&guest, false), port));
    let mut host = listener.accept().unwrap().0;
    guest.send(handle, b"question");
    guest.tcp(handle).close();
    let reading = thread::spawn(move || {
        let mut got = vec![];
        host.read_to_end(&mut got).unwrap();
        (host, got)
    });
    guest.until(|g| (g.tcp(handle).state() == State::FinWait2).then_some(()));
    let (mut host, got) = reading.join().unwrap();
    assert_eq!(got, b"question");
    host.write_all(&pattern(100_000, 3)).unwrap();
    drop(host);
    assert!(guest.receive_all(handle) == pattern(100_000, 3));
    guest.until(|g| (g.tcp(handle).state() == State::TimeWait).then_some(()));
    // The host first.
    let handle = guest.connected((gateway(&guest, false), port));
    let mut host = listener.accept().unwrap().0;
    host.write_all(b"all").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.receive_all(handle), b"all");
    guest.send(handle, b"answer");
    guest.tcp(handle).close();
    let mut got = vec![];
    guest.until(|g| (!g.tcp(handle).is_open()).then_some(()));
    host.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"answer");
}

#[test]
fn resets_go_both_ways() {
    let (listener, port) = listener(false);
    let mut guest = Guest::new(&loopback());
    let handle = guest.connected((gateway(&guest, false), port));
    let host = listener.accept().unwrap().0;
    guest.tcp(handle).abort();
    let reading = thread::spawn(move || (&host).read(&mut [0; 10]).unwrap_err().kind());
    guest.until(|_| reading.is_finished().then_some(()));
    assert_eq!(reading.join().unwrap(), std::io::ErrorKind::ConnectionReset);
    let handle = guest.connected((gateway(&guest, false), port));
    let host = listener.accept().unwrap().0;
    rustix::net::sockopt::set_socket_linger(&host, Some(Duration::ZERO)).unwrap();
    drop(host);
    guest.until(|g| (g.tcp(handle).state() == State::Closed).then_some(()));
}

#[test]
fn a_thousand_connections_at_once() {
    const COUNT: usize = 1000;
    let (listener, port) = listener(false);
    let host = thread::spawn(move || {
        let mut streams: Vec<_> = (0..COUNT).map(|_| listener.accept().unwrap().0).collect();
        for stream in &mut streams {
            let mut line = [0; 8];
            stream.read_exact(&mut line).unwrap();
            stream.write_all(&line).unwrap();
            stream.write_all(&pattern(5000, line[0].into())).unwrap();
        }
    });
    let mut guest = Guest::new(&loopback());
    let to = (gateway(&guest, false), port);
    let mut handles = vec![];
    for n in 0..COUNT {
        handles.push(guest.connect(to, 8192));
        if n % 50 == 0 {
            guest.step();
        }
    }
    let (mut sent, mut got) = (vec![false; COUNT], vec![vec![]; COUNT]);
    guest.until(|g| {
        for (n, handle) in handles.iter().enumerate() {
            let socket = g.tcp(*handle);
            if !sent[n] && socket.may_send() {
                sent[n] = socket.send_slice(&(n as u64).to_le_bytes()).unwrap() == 8;
            }
            while socket.can_recv() {
                socket.recv(|b| (b.len(), got[n].extend_from_slice(b))).unwrap();
            }
        }
        got.iter().all(|g| g.len() == 5008).then_some(())
    });
    host.join().unwrap();
    for (n, got) in got.iter().enumerate() {
        assert_eq!(got[..8], (n as u64).to_le_bytes());
        assert!(got[8..] == pattern(5000, usize::from(got[0])));
    }
}

#[test]
fn who_does_not_read_holds_nobody_up() {
    let (listener, port) = listener(false);
    let mut guest = Guest::new(&loopback());
    let to = (gateway(&guest, false), port);
    // The host does not read from the first, the guest not from the second.
    let [stuck, lazy, fast] = [0; 3].map(|_| guest.connected(to));
    let [mut a, mut b, mut c] = [0; 3].map(|_| listener.accept().unwrap().0);
    let flood = thread::spawn(move || {
        b.write_all(&pattern(20_000_000, 5)).unwrap();
    });
    let up = pattern(20_000_000, 4);
    let mut left = &up[..];
    // Until neither gets any further.
    let mut quiet = 0;
    guest.until(|g| {
        let n = g.tcp(stuck).send_slice(left).unwrap();
        left = &left[n..];
        quiet = if n == 0 { quiet + 1 } else { 0 };
        let full = g.tcp(lazy).recv_queue() == 65536;
        (full && quiet > 300).then_some(())
    });
    assert!(!left.is_empty());
    // Meanwhile others are served.
    let echo = thread::spawn(move || {
        let mut buffer = vec![0; 1_000_000];
        c.read_exact(&mut buffer).unwrap();
        c.write_all(&buffer).unwrap();
    });
    let data = pattern(1_000_000, 6);
    let (mut to_send, mut got) = (&data[..], vec![]);
    guest.until(|g| {
        let socket = g.tcp(fast);
        let n = socket.send_slice(to_send).unwrap();
        to_send = &to_send[n..];
        while socket.can_recv() {
            socket.recv(|b| (b.len(), got.extend_from_slice(b))).unwrap();
        }
        (got.len() == data.len()).then_some(())
    });
    assert!(got == data);
    echo.join().unwrap();
    // And both go on when somebody reads.
    let reading = thread::spawn(move || {
        let mut got = vec![0; 20_000_000];
        a.read_exact(&mut got).unwrap();
        got
    });
    guest.send(stuck, left);
    let mut got = vec![];
    guest.until(|g| {
        let socket = g.tcp(lazy);
        while socket.can_recv() {
            socket.recv(|b| (b.len(), got.extend_from_slice(b))).unwrap();
        }
        (got.len() == 20_000_000).then_some(())
    });
    assert!(got == pattern(20_000_000, 5));
    guest.until(|_| reading.is_finished().then_some(()));
    assert!(reading.join().unwrap() == up);
    flood.join().unwrap();
}
