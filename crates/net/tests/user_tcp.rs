//! TCP of the network in user mode, segment by segment: what RFC 9293 and RFC 5961 want.

mod common;
#[path = "user/raw.rs"]
mod raw;

use donjon_net::{Backend, User, UserNet};
use raw::{ACK, FIN, RST, Raw, SYN};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// A connection between the guest and a program on the host.
fn connected() -> (User, Raw, TcpStream) {
    let net = UserNet {
        host_loopback: true,
        ..UserNet::default()
    };
    let user = User::start(&net, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let raw = Raw::connect(user.queue(0).unwrap(), listener.local_addr().unwrap().port());
    let host = listener.accept().unwrap().0;
    host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (user, raw, host)
}

#[test]
fn segments_of_64_kib_go_in_one_piece() {
    let (_user, mut raw, mut host) = connected();
    let data: Vec<u8> = (0..60_000u32).map(|n| (n ^ n >> 8) as u8).collect();
    raw.send(ACK, &data, 1460);
    raw.seq += 60_000;
    assert_eq!(raw.told().ack, raw.seq);
    let mut got = vec![0; 60_000];
    host.read_exact(&mut got).unwrap();
    assert!(got == data);
}

#[test]
fn what_is_missing_is_waited_for() {
    let (_user, mut raw, mut host) = connected();
    raw.seq += 5;
    raw.send(ACK, b"world", 0);
    raw.seq -= 5;
    assert_eq!(raw.told().ack, raw.seq, "nothing is taken that has no beginning");
    raw.send(ACK, b"hello", 0);
    assert_eq!(raw.told().ack, raw.seq + 5);
    // What was taken comes again, with more.
    raw.send(ACK, b"helloworld", 0);
    assert_eq!(raw.told().ack, raw.seq + 10);
    raw.send(ACK, b"hello", 0);
    assert_eq!(raw.told().ack, raw.seq + 10);
    let mut got = [0; 10];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"helloworld");
}

#[test]
fn guesses_do_no_harm() {
    let (_user, mut raw, mut host) = connected();
    let right = raw.seq;
    // In the window but not where it begins (RFC 5961 §3.2), and far out.
    for (off, answered) in [(1, true), (1000, true), (0x4000_0000, false), (u32::MAX, false)] {
        raw.seq = right.wrapping_add(off);
        raw.send(RST, b"", 0);
        match answered {
            true => assert_eq!((raw.told().flags, right), (ACK, right)),
            false => assert_eq!(raw.told_now(), None),
        }
    }
    // A SYN on what exists (§4.2).
    raw.seq = right + 1;
    raw.send(SYN, b"", 0);
    let told = raw.told();
    assert_eq!((told.flags, told.ack), (ACK, right));
    // Data that acknowledges what was never sent (§5.2), and data far ahead.
    raw.seq = right;
    raw.ack = raw.ack.wrapping_add(1000);
    raw.send(ACK, b"", 0);
    assert_eq!(raw.told().ack, right);
    raw.ack = raw.ack.wrapping_sub(1000);
    raw.seq = right.wrapping_add(0x1000_0000);
    raw.send(ACK, b"evil", 0);
    assert_eq!(raw.told().ack, right);
    // All is as it was.
    raw.seq = right;
    raw.send(ACK, b"good", 0);
    let mut got = [0; 4];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"good");
    raw.seq += 4;
    raw.send(RST, b"", 0);
    assert_eq!(
        host.read(&mut got).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    // Of what is no more.
    while raw.told_now().is_some() {}
    raw.send(ACK, b"", 0);
    let told = raw.told();
    assert_eq!((told.flags, told.seq), (RST, raw.ack));
}

#[test]
fn the_guests_window_is_kept_to() {
    let (_user, mut raw, mut host) = connected();
    raw.window = 0;
    raw.send(ACK, b"", 0);
    host.write_all(b"0123456789abcdefghij").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(raw.told_now(), None);
    raw.window = 8;
    raw.send(ACK, b"", 0);
    let told = raw.told();
    assert_eq!((told.seq, &told.data[..]), (raw.ack, &b"01234567"[..]));
    assert_eq!(raw.told_now(), None);
    // It is given the same once more when it says three times that it misses it.
    for _ in 0..3 {
        assert_eq!(raw.told_now(), None);
        raw.send(ACK, b"", 0);
    }
    assert_eq!(raw.told(), told);
    raw.ack += 8;
    raw.window = 100;
    raw.send(ACK, b"", 0);
    assert_eq!(raw.told().data, b"89abcdefghij");
}

#[test]
fn what_is_not_acknowledged_comes_again() {
    let (_user, mut raw, mut host) = connected();
    host.write_all(b"first").unwrap();
    let told = raw.told();
    assert_eq!(told.data, b"first");
    host.write_all(b"second").unwrap();
    drop(host);
    assert_eq!(raw.told().data, b"second");
    assert_eq!(raw.told().flags, FIN | ACK);
    // After a second, all of it in one.
    let again = raw.told();
    assert_eq!((again.seq, &again.data[..]), (told.seq, &b"firstsecond"[..]));
    raw.ack += 11;
    raw.send(ACK, b"", 0);
    let fin = raw.told();
    assert_eq!((fin.flags, fin.seq), (FIN | ACK, raw.ack));
    raw.ack += 1;
    raw.send(FIN | ACK, b"", 0);
    raw.seq += 1;
    assert_eq!(raw.told().ack, raw.seq);
    // The end may have been missed by the guest, which then says it again.
    raw.seq -= 1;
    raw.send(FIN | ACK, b"", 0);
    assert_eq!(raw.told().ack, raw.seq + 1);
    // And the same ends may be used again.
    raw.seq += 100_000;
    raw.send(SYN, b"", 0);
    assert_eq!(raw.told().flags, RST | ACK, "nobody listens any more");
}

#[test]
fn the_window_is_what_the_host_has_room_for() {
    let (_user, mut raw, mut host) = connected();
    let block = [7; 1460];
    let (mut sent, mut window) = (0usize, 0);
    // Nobody reads: sooner or later it is closed, and nothing in it was refused before.
    loop {
        while let Some(told) = raw.told_now() {
            assert_eq!(told.ack, raw.seq, "all that was allowed has been taken");
            window = told.window;
        }
        if sent > 0 && usize::from(window) < block.len() {
            break;
        }
        raw.send(ACK, &block, 0);
        raw.seq = raw.seq.wrapping_add(1460);
        sent += 1460;
        assert!(sent < 100 << 20, "it never closes");
    }
    // It opens when somebody does.
    let reading = std::thread::spawn(move || {
        let mut got = vec![0; sent];
        host.read_exact(&mut got).unwrap();
        host
    });
    while usize::from(raw.told().window) < block.len() {}
    reading.join().unwrap();
}
