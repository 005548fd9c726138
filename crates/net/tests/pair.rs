//! What a backend does with packets, on the shortest way between two.

mod common;

use common::{FROM, Make, TO, next, plain, see, wait};
use donjon_net::{Backend, HEADER, MAX_PACKET, Offloads, Pair};
use std::io::ErrorKind;

fn large() -> Vec<u8> {
    let make = Make {
        v6: true,
        tcp: true,
        vlan: false,
        options: 0,
        flags: 0x10,
        sequence: 1,
        id: 0,
        size: 1440,
        payload: vec![7; 60_000],
    };
    make.packet()
}

#[test]
fn packets_arrive_as_the_guest_takes_them() {
    let (a, b) = Pair::new().unwrap();
    let (from, to) = (a.queue(0).unwrap(), b.queue(0).unwrap());
    assert!(next(&*to).is_none());
    from.send(&&plain(TO, FROM, b"hello")[..]).unwrap();
    let got = wait(&*to);
    assert_eq!(&got[HEADER..], &plain(TO, FROM, b"hello")[HEADER..]);
    assert_eq!(&got[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    // Nothing was accepted: it comes in segments, one by one.
    from.send(&&large()[..]).unwrap();
    let mut payload = vec![];
    for _ in 0..60_000usize.div_ceil(1440) {
        payload.extend(see(&wait(&*to)).payload);
    }
    assert_eq!(payload, [7; 60_000]);
    assert!(next(&*to).is_none());
    b.set_offloads(Offloads::ALL).unwrap();
    from.send(&&large()[..]).unwrap();
    assert_eq!(wait(&*to)[HEADER..], large()[HEADER..]);
    assert_eq!((a.drops(), b.drops()), Default::default());
}

#[test]
fn little_room_is_enough_for_what_fits() {
    let (a, b) = Pair::new().unwrap();
    let (from, to) = (a.queue(0).unwrap(), b.queue(0).unwrap());
    let mut room = [0; 1526];
    from.send(&&plain(TO, FROM, &[1; 1501])[..]).unwrap();
    from.send(&&plain(TO, FROM, &[2; 1500])[..]).unwrap();
    assert_eq!(to.receive(&mut &mut room[..]).unwrap(), 1526);
    assert_eq!(room[1525], 2);
    assert_eq!(b.drops().received, 1);
    // In segments it fits.
    from.send(&&large()[..]).unwrap();
    assert_eq!(
        to.receive(&mut &mut room[..]).unwrap(),
        HEADER + 14 + 40 + 20 + 1440
    );
    assert_eq!(see(&room).payload, [7; 1440]);
}

#[test]
fn what_is_malformed_is_dropped() {
    let (a, b) = Pair::new().unwrap();
    let (from, to) = (a.queue(0).unwrap(), b.queue(0).unwrap());
    let mut bad = large();
    bad[4..6].copy_from_slice(&[0, 0]);
    from.send(&&bad[..]).unwrap();
    from.send(&&[0; 25][..]).unwrap();
    from.send(&&vec![0; MAX_PACKET + 1][..]).unwrap();
    from.send(&&plain(TO, FROM, b"good")[..]).unwrap();
    assert!(wait(&*to).ends_with(b"good"));
    assert_eq!((a.drops().malformed, b.drops().malformed), (2, 1));
}

#[test]
fn a_full_cable_drops() {
    let (a, b) = Pair::new().unwrap();
    let from = a.queue(0).unwrap();
    for _ in 0..100_000 {
        from.send(&&plain(TO, FROM, b"more")[..]).unwrap();
    }
    let mut got = 0;
    while next(&*b.queue(0).unwrap()).is_some() {
        got += 1;
    }
    assert!(got > 10, "{got}");
    assert_eq!(a.drops().sent + got, 100_000);
    // The other end goes away.
    drop(b);
    from.send(&&plain(TO, FROM, b"nobody")[..]).unwrap();
    let error = from.receive(&mut &mut [0; 2000][..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}
