//! What the network in user mode lets through and what not, and what it stands.

mod common;
mod user;

use common::namespace::inside;
use donjon_net::{Backend, User, UserError, UserNet};
use smoltcp::socket::icmp;
use smoltcp::socket::tcp::State;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};
use user::guest::Guest;
use user::{QUESTION, gateway, heard, listen_icmp, listener, loopback, world};

fn forward(text: &[&str]) -> UserNet {
    UserNet {
        forward: text.iter().map(|f| f.parse().unwrap()).collect(),
        ..UserNet::default()
    }
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
    // A device may still have it.
    let port = guest.user.queue(0).unwrap();
    drop(guest);
    // An end or a reset.
    assert!(!host.read(&mut [0; 1]).is_ok_and(|n| n > 0));
    port.send(&&packets()[0][..]).unwrap();
    while port.receive(&mut &mut vec![0; donjon_net::ROOM][..]).is_ok() {}
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

#[test]
fn without_descriptors_connections_are_refused() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // A process of its own.
    if !inside("without_descriptors_connections_are_refused") {
        return;
    }
    world();
    let limit = |n| Rlimit {
        current: Some(n),
        maximum: Some(n),
    };
    setrlimit(Resource::Nofile, limit(64)).unwrap();
    let (listener, port) = listener(false);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(&loopback());
    let to = (gateway(&guest, false), port);
    let handles: Vec<_> = (0..60).map(|_| guest.connect(to, 4096)).collect();
    let settled = |s: State| matches!(s, State::Established | State::Closed);
    guest.until(|g| handles.iter().all(|h| settled(g.tcp(*h).state())).then_some(()));
    let connected: Vec<_> = handles
        .iter()
        .filter(|h| guest.tcp(**h).state() == State::Established)
        .copied()
        .collect();
    assert!((10..=32).contains(&connected.len()), "{}", connected.len());
    // Those that there are work, datagrams take the place of others, and when one ends there is room again.
    let mut hosts: Vec<_> = (0..10).map(|_| listener.accept().unwrap().0).collect();
    for host in &mut hosts {
        host.write_all(b"here").unwrap();
    }
    let mut served = 0;
    guest.until(|g| {
        served += connected
            .iter()
            .filter(|h| g.tcp(**h).recv(|b| (b.len(), b.len())).unwrap_or(0) == 4)
            .count();
        (served == 10).then_some(())
    });
    drop(hosts);
    for n in 0..40 {
        let handle = guest.udp(2000 + n);
        guest.udp_send(handle, (to.0, udp.local_addr().unwrap().port()), b"x");
    }
    for handle in &connected {
        guest.tcp(*handle).abort();
    }
    guest.connected(to);
}
