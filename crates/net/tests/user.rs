//! The network in user mode, seen by a guest with smoltcp's TCP/IP, and by programs on the host.

mod common;
#[path = "user/guest.rs"]
mod guest;

use common::namespace::{inside, ip};
use donjon_net::{Backend, User, UserError, UserNet};
use guest::Guest;
use smoltcp::socket::dhcpv4;
use smoltcp::socket::icmp;
use smoltcp::socket::tcp::State;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

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

/// What the guest is told of packets from a port of its own.
fn listen_icmp(guest: &mut Guest, endpoint: icmp::Endpoint) -> smoltcp::iface::SocketHandle {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 65536]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(endpoint).unwrap();
    guest.sockets.add(socket)
}

fn heard(guest: &mut Guest, handle: smoltcp::iface::SocketHandle) -> (Vec<u8>, IpAddr) {
    guest.until(|g| {
        let socket = g.sockets.get_mut::<icmp::Socket<'_>>(handle);
        socket
            .recv()
            .ok()
            .map(|(message, from)| (message.to_vec(), from.into()))
    })
}

#[test]
fn what_nobody_takes_is_refused() {
    let mut guest = Guest::new(&loopback());
    for v6 in [false, true] {
        // Nobody has it any more.
        let (_, port) = listener(v6);
        let to = (gateway(&guest, v6), port);
        let handle = guest.connect(to, 1000);
        let start = Instant::now();
        guest.until(|g| (g.tcp(handle).state() == State::Closed).then_some(()));
        assert!(start.elapsed() < Duration::from_secs(20));
        let udp = guest.udp(4000);
        guest.udp_send(udp, to, b"anybody?");
        let mine = if v6 {
            guest.addresses.guest6.into()
        } else {
            guest.addresses.guest.into()
        };
        let mine = smoltcp::wire::IpListenEndpoint {
            addr: Some(mine),
            port: 4000,
        };
        let icmp = listen_icmp(&mut guest, icmp::Endpoint::Udp(mine));
        guest.udp_send(udp, to, b"anybody?");
        let (message, from) = heard(&mut guest, icmp);
        assert_eq!(&message[..2], if v6 { &[1, 4] } else { &[3, 3] });
        assert_eq!(from, to.0);
        assert!(message.ends_with(b"anybody?"));
        guest.sockets.remove(udp);
        guest.sockets.remove(icmp);
    }
}

#[test]
fn the_hosts_loopback_is_its_own() {
    let (tcp, port) = listener(false);
    tcp.set_nonblocking(true).unwrap();
    let udp = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    udp.set_nonblocking(true).unwrap();
    let mut guest = Guest::new(&UserNet::default());
    let local = guest.udp(5000);
    for address in [
        "10.0.2.2",
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "10.0.2.3",
        "fd00::2",
        "::ffff:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "fd00::3",
    ] {
        let address: IpAddr = address.parse().unwrap();
        // smoltcp itself does not send to some of them.
        if !address.is_unspecified() {
            let handle = guest.connect((address, port), 1000);
            guest.udp_send(local, (address, port), b"hello");
            for _ in 0..20 {
                guest.step();
            }
            assert_ne!(guest.tcp(handle).state(), State::Established, "{address}");
            guest.sockets.remove(handle);
        }
    }
    // All that was sent has been seen by now.
    assert_eq!(tcp.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(
        udp.recv(&mut [0; 10]).unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    // The same with leave.
    let mut guest = Guest::new(&loopback());
    guest.connected(("10.0.2.2".parse().unwrap(), port));
    tcp.set_nonblocking(false).unwrap();
    tcp.accept().unwrap();
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

fn forward(text: &[&str]) -> UserNet {
    UserNet {
        forward: text.iter().map(|f| f.parse().unwrap()).collect(),
        ..UserNet::default()
    }
}

#[test]
fn forwarded_ports_lead_to_the_guest() {
    let user = User::start(&forward(&["0:80", "127.0.0.1:0:81/udp"]), None).unwrap();
    let (tcp, udp) = (user.forwards()[0].host, user.forwards()[1].host);
    assert!(tcp != 0 && udp != 0);
    // It comes before the guest does, and over either IP.
    let clients = ["127.0.0.1", "::1"].map(|address| {
        let address: IpAddr = address.parse().unwrap();
        thread::spawn(move || {
            let mut stream = TcpStream::connect((address, tcp)).unwrap();
            stream.write_all(b"hello").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut got = String::new();
            stream.read_to_string(&mut got).unwrap();
            got
        })
    });
    let datagrams = thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", udp)).unwrap();
        socket.send(b"ping").unwrap();
        let mut buffer = [0; 100];
        let len = socket.recv(&mut buffer).unwrap();
        buffer[..len].to_vec()
    });
    let mut guest = Guest::on(user);
    let servers = [0; 2].map(|_| guest.listen(80));
    let handle = guest.udp(81);
    let (got, from) = guest.udp_receive(handle);
    assert_eq!(got, b"ping");
    assert_eq!(from.addr, guest.addresses.gateway.into());
    guest.udp_send(handle, (guest.addresses.gateway.into(), from.port), b"pong");
    guest.until(|_| datagrams.is_finished().then_some(()));
    assert_eq!(datagrams.join().unwrap(), b"pong");
    for handle in servers {
        let got = guest.receive_all(handle);
        assert_eq!(got, b"hello");
        let from = guest.tcp(handle).remote_endpoint().unwrap();
        assert_eq!(from.addr, guest.addresses.gateway.into());
        guest.send(handle, b"welcome");
        guest.tcp(handle).close();
    }
    for client in clients {
        guest.until(|_| client.is_finished().then_some(()));
        assert_eq!(client.join().unwrap(), "welcome");
    }
    // Nobody listens any more.
    let mut stream = TcpStream::connect(("127.0.0.1", tcp)).unwrap();
    let refused = thread::spawn(move || stream.read(&mut [0; 1]).unwrap_err().kind());
    guest.until(|_| refused.is_finished().then_some(()));
    assert_eq!(refused.join().unwrap(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn what_cannot_be_forwarded_is_said() {
    let (_listener, port) = listener(false);
    let taken = User::start(&forward(&[&format!("{port}:80")]), None)
        .err()
        .unwrap();
    assert!(matches!(taken, UserError::Taken { .. }));
    let text = taken.to_string();
    assert!(
        text.contains(&format!("port {port} of 127.0.0.1 is taken")) && text.contains("ss -lnp"),
        "{text}"
    );
    let error = User::start(&forward(&["192.0.2.77:8080:80"]), None)
        .err()
        .unwrap();
    assert!(error.to_string().contains("no address of this host"), "{error}");
    // A port that was given back is free.
    let user = User::start(&forward(&["0:80"]), None).unwrap();
    let again = user.forwards().to_vec();
    TcpStream::connect(("127.0.0.1", again[0].host)).unwrap();
    drop(user);
    TcpStream::connect(("127.0.0.1", again[0].host)).unwrap_err();
    let net = UserNet {
        forward: again,
        ..UserNet::default()
    };
    User::start(&net, None).unwrap();
}

#[test]
fn an_end_closes_everything() {
    let (listener, port) = listener(false);
    let mut guest = Guest::new(&loopback());
    guest.connected((gateway(&guest, false), port));
    let mut host = listener.accept().unwrap().0;
    drop(guest);
    // An end or a reset.
    assert!(!host.read(&mut [0; 1]).is_ok_and(|n| n > 0));
}

/// Addresses that are not the loopback's, as if they were others'.
fn world() {
    ip("link set lo up");
    ip("address add 192.0.2.1/24 dev lo");
    ip("-6 address add 2001:db8::1/64 dev lo nodad");
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
}

#[test]
fn others_are_reached() {
    if !inside("others_are_reached") {
        return;
    }
    world();
    let mut guest = Guest::new(&UserNet::default());
    for address in ["192.0.2.1", "2001:db8::1"] {
        let address: IpAddr = address.parse().unwrap();
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let handle = guest.connected((address, port));
        let (mut host, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), address, "it comes from this host");
        host.write_all(b"hello").unwrap();
        assert_eq!(guest.receive(handle, 5), b"hello");
    }
    // Nobody is there, and there is no way.
    for address in ["203.0.113.1", "2001:db9::1"] {
        let address: IpAddr = address.parse().unwrap();
        let udp = guest.udp(4000);
        let mine = smoltcp::wire::IpListenEndpoint {
            addr: None,
            port: 4000,
        };
        let heard_of = listen_icmp(&mut guest, icmp::Endpoint::Udp(mine));
        guest.udp_send(udp, (address, 9), b"anybody?");
        let (message, _) = heard(&mut guest, heard_of);
        assert_eq!(&message[..2], if address.is_ipv4() { &[3, 0] } else { &[1, 0] });
        guest.sockets.remove(udp);
        guest.sockets.remove(heard_of);
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

/// An answer to a question: the same, with one address.
fn answered(question: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(address);
    answer
}

const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";

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

/// Good packets of all kinds, to be damaged.
fn packets() -> Vec<Vec<u8>> {
    let ends = |to: u8| [[0x52, 0x55, 10, 0, 2, to], [2, 0, 0, 0, 0, 0x15]].concat();
    let v4 = |protocol: u8, to: [u8; 4], payload: &[u8]| {
        let mut frame = ends(2);
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 2, 15]);
        frame.extend(to);
        frame.extend(payload);
        frame
    };
    let v6 = |protocol: u8, to: [u8; 16], payload: &[u8]| {
        let mut frame = ends(2);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, payload.len() as u8, protocol, 255]);
        frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x15]);
        frame.extend(to);
        frame.extend(payload);
        frame
    };
    let gateway6 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let syn = [
        0xc0, 1, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4,
    ];
    let dns = [&[0xc0, 1, 0, 53, 0, 8 + QUESTION.len() as u8, 0, 0][..], QUESTION].concat();
    let mut dhcp = vec![0, 68, 0, 67, 0, 252, 0, 0, 1, 1, 6, 0];
    dhcp.resize(8 + 236, 0);
    dhcp.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255]);
    let mut arp = [
        ends(2),
        vec![8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0x15, 10, 0, 2, 15],
    ]
    .concat();
    arp.extend([0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
    let solicitation = [
        &[135, 0, 0, 0, 0, 0, 0, 0][..],
        &gateway6,
        &[1, 1, 2, 0, 0, 0, 0, 0x15],
    ]
    .concat();
    vec![
        arp,
        v4(6, [10, 0, 2, 2], &syn),
        v4(17, [10, 0, 2, 3], &dns),
        v4(17, [10, 0, 2, 2], &dns),
        v4(17, [255; 4], &dhcp),
        v4(1, [192, 0, 2, 1], &[8, 0, 0, 0, 0, 1, 0, 1, 2, 3]),
        v6(6, gateway6, &syn),
        v6(17, gateway6, &dns),
        v6(58, gateway6, &solicitation),
        v6(44, gateway6, &[17, 0, 0, 1, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8]),
    ]
}

#[test]
fn hostile_packets_do_no_harm() {
    use proptest::prelude::*;
    // They go anywhere.
    if !inside("hostile_packets_do_no_harm") {
        return;
    }
    world();
    let (listener, port) = listener(false);
    let mut guest = Guest::new(&loopback());
    let to = (gateway(&guest, false), port);
    let queue = guest.user.queue(0).unwrap();
    let damage = (
        0..packets().len(),
        prop::collection::vec((any::<u16>(), any::<u8>()), 0..6),
        any::<[u8; 6]>(),
    );
    let storm = prop::collection::vec(damage, 1..40);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let good = packets();
    runner
        .run(&storm, |storm| {
            for (kind, changes, head) in storm {
                let mut frame = good[kind].clone();
                for (at, value) in changes {
                    let at = 12 + usize::from(at) % (frame.len() - 12);
                    frame[at] = value;
                }
                // Its checksum is right most of the time, and the rest is said to be left undone.
                if frame.len() > 34 && frame[12] == 8 && frame[13] == 0 && head[0] > 10 {
                    frame[24..26].copy_from_slice(&[0, 0]);
                    let sum = !(common::sum(&frame[14..34]) as u16);
                    frame[24..26].copy_from_slice(&sum.to_be_bytes());
                }
                let mut packet = vec![1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
                if head[1] > 200 {
                    packet[..6].copy_from_slice(&head);
                }
                packet.extend(frame);
                queue.send(&&packet[..]).unwrap();
            }
            let mut room = vec![0; donjon_net::ROOM];
            while queue.receive(&mut &mut room[..]).is_ok() {}
            Ok(())
        })
        .unwrap();
    // All is as before.
    let handle = guest.connected(to);
    let mut host = listener.accept().unwrap().0;
    guest.send(handle, b"still there");
    let mut got = [0; 11];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"still there");
}
