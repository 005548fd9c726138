//! Network interfaces: in user mode, to the host over a tap interface, and between domains over a switch.

mod common;

use common::guest::Guest;
use common::place::Place;
use rustix::net::{AddressFamily, SocketType, ipproto, socket};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

/// What TCP transfers.
const SIZE: usize = 8 << 20;

/// Whether this is the test in a network namespace of its own; else it is run in one, and has passed there.
#[track_caller]
fn isolated(test: &str) -> bool {
    const INSIDE: &str = "DONJON_TEST_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root makes network namespaces and tap interfaces");
        return false;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        println!("SKIPPED: this host has no /dev/net/tun: modprobe tun");
        return false;
    }
    let me = std::env::current_exe().expect("the test's own path");
    let mut command = Command::new("unshare");
    command
        .arg("--net")
        .arg(me)
        .args(["--exact", test, "--nocapture"]);
    let output = command
        .env(INSIDE, "1")
        .output()
        .expect("unshare starts; it is in util-linux");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    false
}

/// Whether the host gets an answer to an echo request (RFC 792).
fn ping(to: [u8; 4]) -> bool {
    let icmp = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).expect("a raw socket");
    let wait = Some(Duration::from_secs(1));
    rustix::net::sockopt::set_socket_timeout(&icmp, rustix::net::sockopt::Timeout::Recv, wait).unwrap();
    // Type 8, and the checksum of nothing else but that.
    let request = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    if rustix::net::sendto(
        &icmp,
        &request,
        rustix::net::SendFlags::empty(),
        &SocketAddrV4::new(to.into(), 0),
    )
    .is_err()
    {
        return false;
    }
    let mut answer = [0; 1500];
    // Its own request may come by as well.
    for _ in 0..4 {
        match rustix::net::recv(&icmp, &mut answer, rustix::net::RecvFlags::empty()) {
            Ok((n, _)) if n >= 28 && answer[12..16] == to && answer[20] == 0 => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

fn content() -> Vec<u8> {
    let mut x = 88_172_645_463_325_252_u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..SIZE / 8).flat_map(|_| next().to_le_bytes()).collect()
}

#[test]
fn a_tap_interface_connects_guest_and_host() {
    if !isolated("a_tap_interface_connects_guest_and_host") {
        return;
    }
    let place = Place::new();
    place
        .ask(&["run", "--net", "tap=tap0"])
        .exits(1)
        .says(&["no interface tap0", "ip tuntap add"]);
    place.host("ip", &["tuntap", "add", "tap0", "mode", "tap"]);
    place.host("ip", &["addr", "add", "10.7.0.1/24", "dev", "tap0"]);
    place.host("ip", &["link", "set", "tap0", "up"]);
    place.host("ip", &["link", "set", "lo", "up"]);
    let mut guest = Guest::boot(
        &place,
        &["--name", "tap", "--net", "tap=tap0,mac=52:54:00:07:00:02"],
    );
    assert_eq!(guest.sh("cat /sys/class/net/eth0/address"), "52:54:00:07:00:02");
    guest.sh("ip link set eth0 up && ip addr add 10.7.0.2/24 dev eth0");
    guest.sh("ping -c 3 -i 0.2 -W 5 10.7.0.1");
    assert!((0..5).any(|_| ping([10, 7, 0, 2])), "no answer from the guest");
    place
        .ask(&["run", "--net", "tap=tap0"])
        .exits(1)
        .says(&["in use"]);

    // From the guest and to it.
    let content = content();
    let listener = TcpListener::bind("10.7.0.1:7000").unwrap();
    let expected = content.clone();
    let serve = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&expected).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (mut back, _) = listener.accept().unwrap();
        let mut all = vec![];
        back.read_to_end(&mut all).unwrap();
        assert!(all == expected, "{} bytes came back, not the same", all.len());
    });
    guest.sh("nc 10.7.0.1 7000 </dev/null >/tmp/x; ls -l /tmp/x");
    let sum = guest.sh("sha256sum </tmp/x");
    common::file(place.as_ref(), "content", &content);
    assert_eq!(place.host("sh", &["-c", "sha256sum <content"]).trim(), sum);
    guest.sh("nc 10.7.0.1 7000 </tmp/x");
    serve.join().expect("the same bytes");
    guest.begin("nc -l -p 7001 >/tmp/y");
    let mut stream = (0..500).find_map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        TcpStream::connect("10.7.0.2:7001").ok()
    });
    let stream = stream.as_mut().expect("the guest listens");
    stream.write_all(&content).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    assert_eq!(guest.result().0, 0);
    guest.sh("cmp /tmp/x /tmp/y");

    // Without its cable nothing gets through; with it, again.
    place
        .ask(&["device", "set", "tap", "net0", "--link", "down"])
        .exits(0);
    guest.sh("until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do usleep 10000; done");
    assert!(!ping([10, 7, 0, 2]));
    place
        .ask(&["device", "set", "tap", "net0", "--link", "up"])
        .exits(0);
    guest.sh("until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do usleep 10000; done");
    assert!(
        (0..10).any(|_| ping([10, 7, 0, 2])),
        "no answer with the link up again"
    );
    guest.sh("ping -c 1 -W 5 10.7.0.1");
    guest.off();
    // Free for the next.
    Guest::boot(&place, &["--net", "tap=tap0"]).off();
}

#[test]
fn a_network_in_user_mode_needs_nothing_of_the_host() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = format!("user,forward={port}:80");
    place
        .ask(&["run", "--net", &taken])
        .exits(1)
        .says(&[&format!("port {port} of 127.0.0.1 is taken"), "ss -lnp"]);
    // One that is free, most likely still is in a moment.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let net = format!("user,host-loopback,mtu=9000,forward={free}:7001");
    let mut guest = Guest::boot(&place, &["--net", &net]);
    guest.sh("echo 'env >/tmp/lease' >/tmp/script; chmod +x /tmp/script; ip link set eth0 up");
    guest.sh("udhcpc -n -q -f -i eth0 -s /tmp/script");
    for line in [
        "ip=10.0.2.15",
        "router=10.0.2.2",
        "dns=10.0.2.3",
        "subnet=255.255.255.0",
        "mtu=9000",
    ] {
        guest.sh(&format!("grep -x {line} /tmp/lease"));
    }
    guest.sh("ip addr add 10.0.2.15/24 dev eth0 && ip route add default via 10.0.2.2");
    guest.sh("ping -c 3 -i 0.2 -W 5 10.0.2.2");
    // An address of its own making.
    guest.sh("until ip -6 addr show dev eth0 | grep -q 'inet6 fd00:.*scope global'; do usleep 10000; done");

    // From the guest and to it.
    let content = content();
    let expected = content.clone();
    let serve = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&expected).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (mut back, _) = listener.accept().unwrap();
        let mut all = vec![];
        back.read_to_end(&mut all).unwrap();
        assert!(all == expected, "{} bytes came back, not the same", all.len());
    });
    guest.sh(&format!("nc 10.0.2.2 {port} </dev/null >/tmp/x"));
    let sum = guest.sh("sha256sum </tmp/x");
    common::file(place.as_ref(), "content", &content);
    assert_eq!(place.host("sh", &["-c", "sha256sum <content"]).trim(), sum);
    guest.sh(&format!("nc 10.0.2.2 {port} </tmp/x"));
    serve.join().expect("the same bytes");
    guest.begin("nc -l -p 7001 >/tmp/y");
    // Who comes before the guest listens is reset.
    let arrived = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let mut stream = TcpStream::connect(("127.0.0.1", free)).expect("the port is the domain's");
        let sent = stream
            .write_all(&content)
            .and_then(|()| stream.shutdown(Shutdown::Write));
        sent.is_ok() && stream.read(&mut [0]).is_ok_and(|n| n == 0)
    });
    assert!(arrived, "the guest does not listen");
    assert_eq!(guest.result().0, 0);
    guest.sh("cmp /tmp/x /tmp/y");
    // Nobody listens, and that is known at once.
    assert_ne!(guest.try_sh("nc 10.0.2.2 1 </dev/null").0, 0);
    guest.off();
}

/// Three domains on one switch, with addresses.
fn lan(place: &Place) -> [Guest; 3] {
    let mut guests =
        ["a", "b", "c"].map(|name| Guest::start(place, &["--name", name, "--net", "switch=lan"]));
    for (n, guest) in (1..).zip(&mut guests) {
        guest.up();
        guest.sh(&format!(
            "ip link set eth0 up && ip addr add 10.9.0.{n}/24 dev eth0"
        ));
    }
    guests
}

#[test]
fn a_switch_connects_domains_without_a_process_in_the_middle() {
    let place = Place::new();
    let [mut a, mut b, mut c] = lan(&place);
    a.sh("ping -c 2 -i 0.2 -W 5 10.9.0.2 && ping -c 2 -i 0.2 -W 5 10.9.0.3");
    b.sh("ping -c 2 -i 0.2 -W 5 10.9.0.3");
    let transfer = |from: &mut Guest, to: &mut Guest, address: &str| {
        to.begin("nc -l -p 7000 >/tmp/y");
        from.sh(&format!("dd if=/dev/urandom of=/tmp/x bs=1M count=8 2>/dev/null; n=0; until nc {address} 7000 </tmp/x; do usleep 50000; n=$((n+1)); [ $n -lt 200 ]; done"));
        assert_eq!(to.result().0, 0);
        assert_eq!(from.sh("sha256sum </tmp/x"), to.sh("sha256sum </tmp/y"));
    };
    transfer(&mut a, &mut b, "10.9.0.2");
    transfer(&mut b, &mut a, "10.9.0.1");
    // One of them dies; the others do not notice.
    c.running.child.kill().unwrap();
    c.running.child.wait().unwrap();
    drop(c);
    transfer(&mut a, &mut b, "10.9.0.2");
    assert_ne!(a.try_sh("ping -c 1 -W 1 10.9.0.3").0, 0);
    // And another one takes its place.
    let mut c = Guest::boot(&place, &["--name", "c", "--net", "switch=lan"]);
    c.sh("ip link set eth0 up && ip addr add 10.9.0.3/24 dev eth0 && ping -c 1 -W 5 10.9.0.1");
    transfer(&mut b, &mut c, "10.9.0.3");
    for guest in [a, b, c] {
        guest.off();
    }
}
