//! Switches, with all ports in one process.

mod common;

use common::{ALL, FROM, Make, TO, address, join, next, plain, text, wait};
use donjon_net::{Backend, HEADER, Header, MAX_PACKET, Offloads, Switch, SwitchError};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

#[test]
fn packets_go_to_all_until_it_is_known_who_has_the_address() {
    let directory = tempfile::tempdir().unwrap();
    let ports: Vec<_> = ["a", "b", "c"].map(|n| join(directory.path(), n)).into();
    let [a, b, c] = [0, 1, 2].map(|n| &*ports[n].1);
    a.send(&&plain(address(1), address(0), b"who?")[..]).unwrap();
    assert_eq!((text(&wait(b)), text(&wait(c))), ("who?", "who?"));
    b.send(&&plain(address(0), address(1), b"me")[..]).unwrap();
    assert_eq!(text(&wait(a)), "me");
    assert!(next(c).is_none(), "a is known to b");
    a.send(&&plain(address(1), address(0), b"good")[..]).unwrap();
    assert_eq!(text(&wait(b)), "good");
    assert!(next(c).is_none(), "b is known to a");
    a.send(&&plain(ALL, address(0), b"all")[..]).unwrap();
    assert_eq!((text(&wait(b)), text(&wait(c))), ("all", "all"));
    assert!(next(a).is_none(), "nothing comes back");
    // The address moves.
    c.send(&&plain(address(0), address(1), b"me now")[..]).unwrap();
    assert_eq!(text(&wait(a)), "me now");
    a.send(&&plain(address(1), address(0), b"really")[..]).unwrap();
    assert_eq!(text(&wait(c)), "really");
    assert!(next(b).is_none());
}

#[test]
fn names_are_taken_once_and_free_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lan");
    let (first, port) = join(directory.path(), "a");
    let again = Switch::join(&path, &"a".parse().unwrap());
    assert!(matches!(again, Err(SwitchError::Taken(_))));
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let (second, _) = join(directory.path(), "b");
    // Whoever tried was there for a moment.
    assert!(next(&*port).is_none());
    assert_eq!((first.peers(), second.peers()), (1, 1));
    drop((first, port));
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
    let (first, _) = join(directory.path(), "a");
    assert_eq!(first.peers(), 1);
}

#[test]
fn a_directory_that_others_can_enter_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lan");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Switch::join(&path, &"a".parse().unwrap()).err().unwrap();
    assert!(error.to_string().contains("chmod 700"), "{error}");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path(), &link).unwrap();
    assert!(matches!(
        Switch::join(&link, &"a".parse().unwrap()),
        Err(SwitchError::Directory(..))
    ));
}

#[test]
fn what_dead_ports_left_is_swept_and_other_files_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lan");
    let (_a, _) = join(directory.path(), "a");
    drop(UnixListener::bind(path.join("dead")).unwrap());
    std::fs::write(path.join(".hidden"), "").unwrap();
    let (_dead, _) = join(directory.path(), "dead");
    drop(UnixListener::bind(path.join("more")).unwrap());
    let (_b, _) = join(directory.path(), "b");
    let mut left: Vec<_> = std::fs::read_dir(&path)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, [".hidden", "a", "b", "dead"]);
}

#[test]
fn somebody_who_stays_in_the_middle_of_joining_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (_a, _) = join(directory.path(), "a");
    let path = directory.path().join("lan");
    let held = std::fs::File::open(&path).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = Switch::join(&path, &"b".parse().unwrap()).err().unwrap();
    assert!(matches!(error, SwitchError::Locked(_)), "{error}");
}

#[test]
fn large_packets_pass_whole_and_are_cut_up_for_who_wants_that() {
    let directory = tempfile::tempdir().unwrap();
    let make = Make {
        v6: false,
        tcp: true,
        vlan: false,
        options: 0,
        flags: 0x18,
        sequence: 0,
        id: 0,
        size: 1460,
        payload: vec![3; 65_000],
    };
    let [(_a, a), (b_switch, b), (_c, c)] = ["a", "b", "c"].map(|n| join(directory.path(), n));
    b_switch.set_offloads(Offloads::ALL).unwrap();
    a.send(&&make.packet()[..]).unwrap();
    let whole = wait(&*b);
    assert_eq!(whole[HEADER..], make.packet()[HEADER..]);
    assert_eq!(whole[1], Header::GSO_TCPV4);
    let mut payload = vec![];
    while payload.len() < 65_000 {
        payload.extend(common::see(&wait(&*c)).payload);
    }
    assert_eq!(payload, make.payload);
}

#[test]
fn a_port_that_does_not_receive_loses_packets_and_nobody_else_does() {
    let directory = tempfile::tempdir().unwrap();
    let [(a_switch, a), (_b, b), (_slow, slow)] = ["a", "b", "slow"].map(|n| join(directory.path(), n));
    for n in 0..5000u32 {
        let packet = [&plain(ALL, address(0), &n.to_le_bytes())[..], &[0; 1400]].concat();
        a.send(&&packet[..]).unwrap();
        assert_eq!(wait(&*b)[HEADER + 14..HEADER + 18], n.to_le_bytes());
    }
    let dropped = a_switch.drops().sent;
    assert!(dropped > 0);
    let mut got = 0;
    while next(&*slow).is_some() {
        got += 1;
    }
    assert_eq!(got + dropped, 5000);
    // And then receives again.
    a.send(&&plain(ALL, address(0), b"again")[..]).unwrap();
    assert_eq!(text(&wait(&*slow)), "again");
}

#[test]
fn a_hostile_peer_harms_itself() {
    use rustix::net::*;
    let directory = tempfile::tempdir().unwrap();
    let [(a_switch, a), (_b, b)] = ["a", "b"].map(|n| join(directory.path(), n));
    let connect_raw = || {
        let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let path = directory.path().join("lan/a");
        sockopt::set_socket_send_buffer_size(&socket, 1 << 20).unwrap();
        connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        socket
    };
    let peer = connect_raw();
    let say = |bytes: &[u8]| assert_eq!(send(&peer, bytes, SendFlags::empty()).unwrap(), bytes.len());
    say(&[1]);
    say(&[0xff; 60]);
    say(&[0; 25]);
    say(&vec![0; MAX_PACKET + 1]);
    say(&vec![0; 100_000]);
    // More than are dropped at once.
    for _ in 0..100 {
        say(&[0xff; 30]);
    }
    say(&plain(TO, FROM, b"fine"));
    assert!(wait(&*a).ends_with(b"fine"));
    assert_eq!(a_switch.drops().malformed, 105);
    // An empty packet is the end.
    let packet = plain(TO, FROM, b"not heard");
    say(&[]);
    say(&packet);
    assert!(next(&*a).is_none());
    assert!(send(&peer, &packet, SendFlags::NOSIGNAL).is_err());
    assert_eq!(a_switch.peers(), 1);
    // Many that come and go.
    for _ in 0..1000 {
        drop(connect_raw());
    }
    b.send(&&plain(ALL, FROM, b"still here")[..]).unwrap();
    assert_eq!(text(&wait(&*a)), "still here");
    while a_switch.peers() > 1 {
        assert!(next(&*a).is_none());
    }
}

#[test]
fn a_busy_peer_does_not_shut_out_others() {
    let directory = tempfile::tempdir().unwrap();
    let [(_a, a), (_b, b), (_c, c)] = ["a", "b", "c"].map(|n| join(directory.path(), n));
    b.send(&&plain(ALL, address(1), b"learn")[..]).unwrap();
    wait(&*a);
    for _ in 0..20 {
        b.send(&&plain(ALL, address(1), b"busy")[..]).unwrap();
    }
    assert_eq!(text(&next(&*a).unwrap()), "busy");
    c.send(&&plain(ALL, address(2), b"me too")[..]).unwrap();
    for before in 0.. {
        // It goes on all the time.
        b.send(&&plain(ALL, address(1), b"busy")[..]).unwrap();
        if text(&next(&*a).unwrap()) == "me too" {
            assert!(before <= 2 * 16, "{before} packets before");
            break;
        }
    }
}

/// Every port says something to every other, in threads that join at the same time.
#[test]
fn many_ports_join_at_once_and_all_hear_all() {
    const PORTS: u8 = 24;
    let directory = tempfile::tempdir().unwrap();
    let ports: Vec<_> = std::thread::scope(|s| {
        let path = directory.path();
        let threads: Vec<_> = (0..PORTS)
            .map(|n| s.spawn(move || join(path, &format!("p{n}"))))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(ports.iter().all(|(s, _)| s.peers() == usize::from(PORTS) - 1));
    std::thread::scope(|s| {
        for (n, (_, port)) in ports.iter().enumerate() {
            s.spawn(move || {
                port.send(&&plain(ALL, address(n as u8), b"I am")[..]).unwrap();
                let (mut heard, mut told) = (0u64, 0u64);
                while heard.count_ones() + told.count_ones() < 2 * u32::from(PORTS - 1) {
                    let packet = wait(&**port);
                    let bit = 1 << packet[HEADER + 11];
                    match text(&packet) {
                        "I am" => {
                            assert_eq!(heard & bit, 0, "heard twice");
                            heard |= bit;
                            let source = packet[HEADER + 6..HEADER + 12].try_into().unwrap();
                            port.send(&&plain(source, address(n as u8), b"hello")[..])
                                .unwrap();
                        }
                        "hello" => {
                            assert_eq!(packet[HEADER + 5], n as u8, "to me");
                            assert_eq!(told & bit, 0, "told twice");
                            told |= bit;
                        }
                        other => panic!("{other}"),
                    }
                }
            });
        }
    });
}
