//! What cannot be seen from outside.

#[allow(dead_code)]
#[path = "../../tests/user/guest.rs"]
mod guest;

use super::{User, UserNet};
use guest::Guest;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::Duration;

fn loopback() -> User {
    let net = UserNet {
        host_loopback: true,
        ..UserNet::default()
    };
    User::start(&net, None).unwrap()
}

#[test]
fn kernels_that_peek_at_the_beginning_only_will_do() {
    for lose in [0, 50] {
        let user = loopback();
        user.port.lock().core.peeks_on = false;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let data: Vec<u8> = (0..1_000_000u32).map(|n| (n ^ n >> 8 ^ n >> 16) as u8).collect();
        let expected = data.clone();
        let host = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            stream.write_all(&data).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut end = vec![];
            stream.read_to_end(&mut end).unwrap();
            end
        });
        let mut guest = Guest::on(user);
        guest.card.lose = lose;
        let handle = guest.connected((guest.addresses.gateway.into(), port));
        assert!(guest.receive_all(handle) == expected);
        guest.send(handle, b"end");
        guest.tcp(handle).close();
        guest.until(|g| (!g.tcp(handle).is_open()).then_some(()));
        assert_eq!(host.join().unwrap(), b"end");
    }
}

/// Makes time go by for the network, and has it do what is due.
fn later(guest: &Guest, seconds: u64) {
    let mut stack = guest.user.port.lock();
    stack.core.now += Duration::from_secs(seconds);
    stack.run_timers();
}

/// Whether there is anything for the guest, which it does not get.
fn lost(guest: &Guest) -> bool {
    let mut room = vec![0; crate::ROOM];
    guest.user.port.lock().output(&mut &mut room[..]).is_some()
}

#[test]
fn a_guest_that_is_gone_is_forgotten() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::on(loopback());
    let to = (
        guest.addresses.gateway.into(),
        listener.local_addr().unwrap().port(),
    );
    guest.connected(to);
    let mut host = listener.accept().unwrap().0;
    later(&guest, 7100);
    assert!(!lost(&guest), "it is not asked too soon");
    for n in 0..9 {
        later(&guest, 7201 + n * 75);
        assert!(lost(&guest), "it is asked");
    }
    later(&guest, 7201 + 9 * 75);
    let error = host.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_guest_without_room_is_asked_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::on(loopback());
    let to = (
        guest.addresses.gateway.into(),
        listener.local_addr().unwrap().port(),
    );
    let handle = guest.connect(to, 1000);
    guest.until(|g| g.tcp(handle).may_send().then_some(()));
    let mut host = listener.accept().unwrap().0;
    host.write_all(&[7; 5000]).unwrap();
    guest.until(|g| (g.tcp(handle).recv_queue() == 1000).then_some(()));
    // However long that goes on, as long as it answers.
    let before = guest.card.received;
    for minutes in 1..100 {
        later(&guest, minutes * 61);
        guest.ahead = Duration::from_secs(minutes * 61);
        guest.step();
    }
    assert!(guest.card.received > before + 50, "it is asked");
    assert_eq!(guest.receive(handle, 5000), [7; 5000]);
}
