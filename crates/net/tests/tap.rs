//! Tap interfaces, in a network namespace of their own; and the kernel as the reference for segmentation.

mod common;

use common::namespace::{self, ip};
use common::{FROM, Make, TO, next, plain, wait};
use donjon_net::{Backend, HEADER, Header, Offloads, Segments, Tap, TapError};
use std::process::Command;
use std::time::{Duration, Instant};

/// Whether this is a run with interfaces of its own, see [`namespace::inside`].
fn inside(name: &str) -> bool {
    let device = "/dev/net/tun";
    if let Err(e) = std::fs::File::options().read(true).write(true).open(device) {
        println!(
            "SKIPPED: {device}: {e}; sudo modprobe tun && sudo chmod 666 {device}, or run the test as root"
        );
        return false;
    }
    namespace::inside(name)
}

fn open(name: &str, queues: u16) -> Result<Tap, TapError> {
    Tap::open(&name.parse().unwrap(), queues)
}

/// Opens an interface and waits until the kernel sends packets there, which it does a moment later.
fn open_up(name: &str, queues: u16) -> Tap {
    let tap = open(name, queues).unwrap();
    wait_for(name);
    tap
}

fn wait_for(name: &str) {
    let is_up = || {
        let output = Command::new("ip").args(["link", "show", name]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("state UP")
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_up() {
        assert!(Instant::now() < deadline, "{name} does not come up");
    }
}

/// The next packet from or to us, not one that the kernel sends by itself.
fn ours(tap: &Tap) -> Vec<u8> {
    let port = tap.queue(0).unwrap();
    loop {
        let packet = wait(&*port);
        if packet[HEADER + 6..HEADER + 12] == FROM || packet[HEADER..HEADER + 6] == FROM {
            return packet;
        }
    }
}

#[test]
fn packets_go_both_ways() {
    if !inside("packets_go_both_ways") {
        return;
    }
    ip("tuntap add dev tap0 mode tap vnet_hdr");
    ip("link set tap0 address 02:00:00:00:00:bb up");
    ip("address add 10.0.0.2/24 dev tap0");
    ip("neighbor add 10.0.0.1 lladdr 02:00:00:00:00:aa dev tap0");
    let tap = open_up("tap0", 1);
    assert!(
        tap.link()
            && tap
                .offloads()
                .contains(Offloads::CSUM | Offloads::TSO4 | Offloads::TSO6)
    );
    let port = tap.queue(0).unwrap();
    // To a socket of the host, with the checksum left to the kernel, and back, finished by it.
    let socket = std::net::UdpSocket::bind("10.0.0.2:54321").unwrap();
    let mut make = Make {
        v6: false,
        tcp: false,
        vlan: false,
        options: 0,
        flags: 0,
        sequence: 0,
        id: 7,
        size: 0,
        payload: b"to the host".to_vec(),
    };
    port.send(&&make.packet()[..]).unwrap();
    let mut buffer = [0; 3000];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..len], from),
        (&b"to the host"[..], "10.0.0.1:12345".parse().unwrap())
    );
    socket.send_to(b"to the guest", from).unwrap();
    assert_eq!(common::see(&ours(&tap)).payload, b"to the guest");
    // Several datagrams in one packet, if this kernel knows that.
    if tap.offloads().contains(Offloads::USO4) {
        make.payload = (0..3000).map(|n| n as u8).collect();
        make.size = 1000;
        port.send(&&make.packet()[..]).unwrap();
        for part in make.payload.chunks(1000) {
            let len = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], part);
        }
    }
    // What is accepted undone comes undone.
    tap.set_offloads(tap.offloads()).unwrap();
    socket.send_to(b"undone", from).unwrap();
    let packet = ours(&tap);
    let header = Header::from_bytes(*packet.first_chunk().unwrap());
    assert_eq!(
        (header.flags, header.csum_start, header.csum_offset),
        (Header::NEEDS_CSUM, 34, 6)
    );
    assert_eq!(header.num_buffers, 1);
    // Without the checksum there is nothing that could be left.
    tap.set_offloads(Offloads::TSO4).unwrap();
    socket.send_to(b"done", from).unwrap();
    assert_eq!(common::see(&ours(&tap)).payload, b"done");
    // Little room is enough for what fits.
    socket.send_to(&[1; 1400], from).unwrap();
    socket.send_to(&[2; 100], from).unwrap();
    let mut room = [0; 500];
    while port
        .receive(&mut &mut room[..])
        .map_or(true, |len| len != HEADER + 14 + 28 + 100)
    {}
    assert!(tap.drops().received >= 1);
    // A malformed header, no cable.
    make.size = 0;
    let mut bad = make.packet();
    bad[1] = 0x7f;
    port.send(&&bad[..]).unwrap();
    assert_eq!(tap.drops().malformed, 1);
    ip("link set tap0 down");
    port.send(&&plain(TO, FROM, b"down")[..]).unwrap();
    assert_eq!(tap.drops().sent, 1);
    ip("link delete tap0");
    assert!(port.send(&&plain(TO, FROM, b"gone")[..]).is_err());
    assert!(port.receive(&mut &mut room[..]).is_err());
}

#[test]
fn several_queues() {
    if !inside("several_queues") {
        return;
    }
    ip("tuntap add dev many mode tap vnet_hdr multi_queue");
    ip("link set many up");
    ip("address add 10.0.0.2/24 dev many");
    ip("neighbor add 10.0.0.1 lladdr 02:00:00:00:00:aa dev many");
    let tap = open_up("many", 4);
    assert_eq!(tap.queues(), 4);
    assert!(tap.queue(4).is_err() && tap.set_queues(5).is_err() && tap.set_queues(0).is_err());
    tap.set_offloads(Offloads::ALL).unwrap();
    let ports: Vec<_> = (0..4).map(|n| tap.queue(n).unwrap()).collect();
    // Many flows are spread over the queues that are used, and over no others.
    let spread = |used: usize| {
        let mut counts = [0; 4];
        for n in 0..64 {
            let socket = std::net::UdpSocket::bind("10.0.0.2:0").unwrap();
            socket.send_to(b"flow", ("10.0.0.1", 1000 + n)).unwrap();
        }
        for (count, port) in counts.iter_mut().zip(&ports[..used]) {
            while let Some(packet) = next(&**port) {
                *count += usize::from(packet.ends_with(b"flow"));
            }
        }
        assert_eq!(counts.iter().sum::<usize>(), 64, "{counts:?}");
        counts
    };
    assert_eq!(spread(1), [64, 0, 0, 0]);
    tap.set_queues(4).unwrap();
    assert!(spread(4).iter().filter(|n| **n > 0).count() > 1);
    tap.set_queues(2).unwrap();
    assert_eq!(spread(2)[2..], [0, 0]);
    // Each of them sends.
    let socket = std::net::UdpSocket::bind("10.0.0.2:54321").unwrap();
    tap.set_queues(4).unwrap();
    ip("link set many address 02:00:00:00:00:bb");
    for port in &ports {
        let make = Make {
            v6: false,
            tcp: false,
            vlan: false,
            options: 0,
            flags: 0,
            sequence: 0,
            id: 0,
            size: 0,
            payload: b"from any".to_vec(),
        };
        port.send(&&make.packet()[..]).unwrap();
        assert_eq!(socket.recv(&mut [0; 100]).unwrap(), 8);
    }
    drop((tap, ports));
    // One queue of an interface that could have more.
    open("many", 1).unwrap();
}

#[test]
fn what_cannot_be_had_is_explained() {
    if !inside("what_cannot_be_had_is_explained") {
        return;
    }
    ip("tuntap add dev one mode tap");
    ip("tuntap add dev tun mode tun");
    ip("link add br0 type bridge");
    let error = |name: &str, queues| open(name, queues).err().expect("refused").to_string();
    assert!(error("one", 2).contains("no tap interface with multi_queue"));
    assert!(error("tun", 1).contains("no tap interface"));
    assert!(error("br0", 1).contains("no tap interface"));
    assert!(error("one", 0).contains("1 to 256"));
    let _held = open("one", 1).unwrap();
    assert!(error("one", 1).contains("in use"));
    // Privileged as we are it could be made.
    assert!(error("new", 2).contains("there is no interface new"));
    assert!(
        !Command::new("ip")
            .args(["link", "show", "new"])
            .output()
            .unwrap()
            .status
            .success()
    );
    // As somebody else.
    ip("tuntap add dev theirs mode tap user 4711");
    let unprivileged = || {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
        command.args(["--securebits=+noroot,+noroot_locked,+no_setuid_fixup"]);
        command
    };
    let output = unprivileged()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "unprivileged", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{log}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        log.contains("no interface nobody; make it: sudo ip tuntap add dev nobody mode tap user $USER vnet_hdr && sudo ip link set nobody up"),
        "{log}"
    );
    assert!(log.contains("interface theirs belongs to another user"), "{log}");
}

#[test]
#[ignore = "a part of another test, which runs it without privileges"]
fn unprivileged() {
    for name in ["nobody", "theirs"] {
        println!("{}", open(name, 1).err().expect("refused"));
    }
}

/// Packets of all kinds, as the kernel cuts them up between two interfaces of a bridge, and as we do.
#[test]
fn segments_are_those_of_the_kernel() {
    if !inside("segments_are_those_of_the_kernel") {
        return;
    }
    ip("link add br0 type bridge mcast_snooping 0");
    let [a, b] = ["tap-a", "tap-b"].map(|name| {
        ip(&format!("tuntap add dev {name} mode tap vnet_hdr"));
        ip(&format!("link set {name} mtu 9500 master br0 up"));
        open(name, 1).unwrap()
    });
    ip("link set br0 mtu 9500 up");
    for name in ["tap-a", "tap-b", "br0"] {
        wait_for(name);
    }
    let port = a.queue(0).unwrap();
    let mut compared = 0;
    for (v6, tcp, vlan) in (0..8).map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0)) {
        let uso = if v6 { Offloads::USO6 } else { Offloads::USO4 };
        for (size, len, options, flags) in [
            (0, 1, 0, 0x10),
            (0, 1400, 2, 0x19),
            (1000, 900, 0, 0x18),
            (1000, 1000, 0, 0x18),
            (1000, 1001, 0, 0x18),
            (536, 10_000, 3, 0x99),
            (1447, 60_001, 3, 0x91),
            (8948, 64_000, 0, 0x10),
        ] {
            // Linux has no more datagrams than this in one packet.
            if size > 0 && !tcp && (!a.offloads().contains(uso) || len / size as usize > 60) {
                continue;
            }
            let make = Make {
                v6,
                tcp,
                vlan,
                // IPv6 has its own tests: the kernel takes no extension headers there.
                options: if v6 { 0 } else { options },
                flags: if tcp { flags } else { 0 },
                sequence: u32::MAX - 5000,
                id: 0xfffe,
                size,
                payload: (0..len).map(|n| (n * 13 + n / 256) as u8).collect(),
            };
            port.send(&&make.packet()[..]).unwrap();
            assert_eq!(a.drops(), Default::default(), "taken: {make:?}");
            let mut segments = Segments::new(make.packet(), Offloads::NONE).unwrap();
            let mut segment = vec![];
            while segments.next(&mut segment) {
                let kernel = ours(&b);
                assert_eq!(
                    kernel[HEADER..],
                    segment[HEADER..],
                    "{v6} {tcp} {vlan} {size} {len}"
                );
                common::see(&segment);
                compared += 1;
            }
        }
    }
    assert!(compared > 500, "{compared}");
}
