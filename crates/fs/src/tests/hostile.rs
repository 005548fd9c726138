//! Requests that no guest's kernel makes.

use super::client::{Client, LIMITS};
use crate::abi::{ROOT, op};
use crate::{Limits, Malformed, ShareOptions};
use donjon_memory::Scatter;
use proptest::prelude::*;
use rustix::io::Errno;
use std::fs;

#[test]
fn what_is_no_request_is_told_from_what_is_a_bad_one() {
    let c = Client::new();
    let empty = Scatter::new(&c.ram);
    let short = c.parts(0x1_0000, 39);
    assert_eq!(c.server.handle(&short, &c.parts(0x40_0000, 100)), Err(Malformed));
    assert_eq!(c.server.handle(&empty, &empty), Err(Malformed));
    // Its answer has no room.
    let header = c.parts(0x1_0000, 40);
    header.store(0, &[40, 0, 0, 0, op::GETATTR as u8, 0, 0, 0]);
    assert_eq!(c.server.handle(&header, &c.parts(0x40_0000, 15)), Err(Malformed));
    // A length that is not the request's.
    for len in [0, 39, 1000, u32::MAX] {
        assert_eq!(c.raw(len, op::STATFS, ROOT, &[], 80), Err(Errno::INVAL));
    }
    assert!(
        c.raw(40, op::STATFS, ROOT, &[9; 100], 80).is_ok(),
        "what is behind does not count"
    );
    assert_eq!(c.ask(op::GETATTR, ROOT, &[0; 16], 100), Err(Errno::OVERFLOW));
    assert_eq!(c.ask(op::SETXATTR, ROOT, &vec![0; 70_000], 0), Err(Errno::TOOBIG));
    for cut in 0..84 {
        assert_eq!(
            c.ask(op::SETATTR, ROOT, &vec![0; cut], 104),
            Err(Errno::INVAL),
            "{cut}"
        );
    }
}

#[test]
fn numbers_that_mean_nothing_are_refused() {
    let c = Client::new();
    fs::write(c.host("f"), "x").unwrap();
    let (entry, handle) = c.create(ROOT, "f", 2, 0o644).unwrap();
    for node in [0, 99, u64::MAX] {
        assert_eq!(c.lookup(node, "f"), Err(Errno::STALE));
        assert_eq!(c.getattr(node), Err(Errno::STALE));
        assert_eq!(c.open(node, 0), Err(Errno::STALE));
        assert_eq!(c.opendir(node), Err(Errno::STALE));
        assert_eq!(c.rename(ROOT, "f", node, "g", 0), Err(Errno::STALE));
        c.forget(node, u64::MAX);
        assert_eq!(c.read(node, 0, 1), Err(Errno::BADF));
        assert_eq!(c.entries(node, 0, 100, true), Err(Errno::BADF));
    }
    // The root is never forgotten, and nothing more often than known.
    c.forget(ROOT, u64::MAX);
    c.forget(entry.node, u64::MAX);
    assert_eq!(c.getattr(entry.node), Err(Errno::STALE));
    assert_eq!(c.read(handle, 0, 1).unwrap(), b"x", "it is open all the same");
    assert_eq!(c.lookup(ROOT, "f/"), Err(Errno::INVAL));
    assert_eq!(c.lookup(entry.node, "f"), Err(Errno::STALE));
    assert_ne!(
        c.lookup(ROOT, "f").unwrap().node,
        entry.node,
        "numbers are not used again"
    );
    // More than it brings, and more than is taken at once.
    let mut body = crate::wire::Output::default();
    body.u64(handle).u64(0).u32(100).u32(0).zeroes(16).bytes(b"few");
    assert_eq!(c.ask(op::WRITE, ROOT, &body.0, 8), Err(Errno::INVAL));
    assert_eq!(c.ask(op::WRITE, ROOT, &body.0[..20], 8), Err(Errno::INVAL));
    assert_eq!(c.read(handle, 0, 3 << 20).unwrap(), b"x");
    // Names that never end, more of them than there are.
    assert_eq!(c.ask(op::SYMLINK, ROOT, b"name\0target", 128), Err(Errno::INVAL));
    assert_eq!(c.ask(op::BATCH_FORGET, 0, &[0xff; 40], 0), Ok(vec![]));
}

#[test]
fn what_a_guest_may_have_has_an_end() {
    let limits = Limits {
        nodes: 50,
        descriptors: 16,
        handles: 10,
    };
    let c = Client::with(&ShareOptions::default(), &limits);
    let mut nodes = vec![];
    let end = loop {
        match c.mkdir(ROOT, &format!("{}", nodes.len()), 0o755) {
            Ok(entry) => nodes.push(entry.node),
            Err(e) => break e,
        }
    };
    assert_eq!((end, nodes.len()), (Errno::NFILE, 49));
    c.forget(nodes[0], 1);
    c.mkdir(ROOT, "another", 0o755).unwrap();
    let handles: Vec<_> = (0..10).map(|_| c.opendir(nodes[5]).unwrap()).collect();
    assert_eq!(c.opendir(nodes[5]), Err(Errno::NFILE));
    c.release(handles[3]).unwrap();
    c.opendir(nodes[5]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_request_has_an_answer(
        op in prop_oneof![0u32..60, any::<u32>()],
        node in prop_oneof![0u64..6, any::<u64>()],
        words in prop::collection::vec(prop_oneof![0u64..8, any::<u64>(), Just(0x0061_0062), Just(u64::MAX)], 0..12),
        text in prop::collection::vec(any::<u8>(), 0..40),
        room in 0usize..5000,
    ) {
        let c = Client::with(&ShareOptions::default(), &LIMITS);
        c.create(ROOT, "a", 2, 0o644).unwrap();
        let d = c.mkdir(ROOT, "b", 0o755).unwrap();
        c.opendir(d.node).unwrap();
        c.symlink(ROOT, "c", "../..").unwrap();
        let mut body: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        body.extend(text);
        let before = fs::read_dir(c.place.path()).unwrap().count();
        let _ = c.ask(op, node, &body, room);
        let _ = c.ask(op, node, &body, room);
        prop_assert_eq!(fs::read_dir(c.place.path()).unwrap().count(), before);
    }
}
