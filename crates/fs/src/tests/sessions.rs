//! Sessions that are saved and go on.

use super::client::{Client, LIMITS};
use crate::abi::ROOT;
use crate::saved::{SavedHandle, SavedNode};
use crate::{Limits, SavedSession, ShareOptions};
use rustix::io::Errno;
use std::ffi::CString;
use std::fs;

/// The same session in another process, with the same directory.
fn restored(c: &Client, saved: &SavedSession) -> Client {
    let next = Client::again(c.place.clone(), &ShareOptions::default(), &LIMITS);
    next.server.restore(saved).unwrap();
    next
}

#[test]
fn a_restored_session_knows_and_has_open_what_it_had() {
    let c = Client::new();
    let d = c.mkdir(ROOT, "d", 0o755).unwrap().node;
    let (f, handle) = c.create(d, "f", 2, 0o644).unwrap();
    c.write(handle, 0, b"before").unwrap();
    let link = c.symlink(d, "l", "f").unwrap();
    let reading = c.opendir(d).unwrap();
    let first = c.entries(reading, 0, 64, false).unwrap();
    let (gone, lost) = c.create(d, "gone", 2, 0o644).unwrap();
    c.unlink(d, "gone").unwrap();
    c.lookup(d, "f").unwrap();
    let saved = c.server.save();
    assert_eq!(saved, c.server.save());

    let next = restored(&c, &saved);
    assert_eq!(next.read(handle, 0, 100).unwrap(), b"before");
    next.write(handle, 6, b" and after").unwrap();
    assert_eq!(fs::read(c.host("d/f")).unwrap(), b"before and after");
    assert_eq!(next.lookup(d, "f").unwrap().node, f.node);
    assert_eq!(next.readlink(link.node).unwrap(), "f");
    let rest = next
        .entries(reading, first.last().unwrap().2, 1000, false)
        .unwrap();
    assert_eq!(first.len() + rest.len(), 4);
    // What had no name is not there any more, and everything else that it can be closed.
    assert_eq!(next.read(lost, 0, 1), Err(Errno::STALE));
    assert_eq!(next.getattr(gone.node), Err(Errno::STALE));
    next.release(lost).unwrap();
    // Numbers go on.
    let (new, opened) = next.create(d, "new", 2, 0o644).unwrap();
    assert!(new.node > gone.node && opened > lost);
    // The guest knew it three times.
    next.forget(f.node, 2);
    next.getattr(f.node).unwrap();
    next.forget(f.node, 1);
    assert_eq!(next.getattr(f.node), Err(Errno::STALE));
}

#[test]
fn what_is_gone_or_another_kind_after_a_restore_is_stale() {
    let c = Client::new();
    let (a, opened) = c.create(ROOT, "a", 2, 0o644).unwrap();
    let b = c.mkdir(ROOT, "b", 0o755).unwrap();
    let (in_b, handle) = c.create(b.node, "c", 2, 0o644).unwrap();
    let saved = c.server.save();
    assert_eq!(restored(&c, &saved).server.save(), saved);
    fs::remove_file(c.host("a")).unwrap();
    fs::create_dir(c.host("a")).unwrap();
    fs::rename(c.host("b"), c.host("elsewhere")).unwrap();
    let next = restored(&c, &saved);
    assert_eq!(next.read(opened, 0, 1), Err(Errno::STALE));
    assert_eq!(
        next.open(a.node, 0),
        Err(Errno::ISDIR),
        "the name is what is saved"
    );
    assert_eq!(next.read(handle, 0, 1), Err(Errno::STALE));
    assert_eq!(next.getattr(in_b.node), Err(Errno::STALE));
    assert_eq!(next.getattr(b.node), Err(Errno::STALE));
    next.lookup(ROOT, "elsewhere").unwrap();
    next.forget(in_b.node, 1);
    next.forget(b.node, 1);
}

#[test]
fn a_session_that_cannot_be_is_refused() {
    let c = Client::new();
    let d = c.mkdir(ROOT, "d", 0o755).unwrap().node;
    c.create(d, "f", 2, 0o644).unwrap();
    let few = Limits { nodes: 2, ..LIMITS };
    let small = Client::again(c.place.clone(), &ShareOptions::default(), &few);
    assert!(small.server.restore(&c.server.save()).is_err());
    assert_eq!(small.lookup(ROOT, "d"), Err(Errno::IO), "it has not begun");
    small.server.restore(&SavedSession::default()).unwrap();
    assert_eq!(small.lookup(ROOT, "d"), Err(Errno::IO));
}

#[test]
fn numbers_and_names_of_a_saved_session_have_bounds() {
    let c = Client::new();
    let node = |id: u64, place: Option<(u64, &str)>| SavedNode {
        id,
        place: place.map(|(parent, name)| (parent, CString::new(name).unwrap())),
        lookups: 1,
    };
    let handle = |number: u64| SavedHandle {
        number,
        node: 1,
        flags: 0,
        directory: true,
    };
    for (nodes, last_node, handles, last_handle, good) in [
        (vec![node(2, Some((1, "a")))], 2, vec![handle(6)], 6, true),
        // A ring of directories, and one that is in none: nowhere, which is no harm.
        (
            vec![
                node(2, Some((3, "a"))),
                node(3, Some((2, "b"))),
                node(4, Some((9, "c"))),
            ],
            4,
            vec![],
            0,
            true,
        ),
        (vec![], u64::MAX, vec![], 0, false),
        (vec![node(5, None)], 4, vec![], 0, false),
        (vec![node(1, None)], 4, vec![], 0, false),
        (vec![node(2, None), node(2, None)], 4, vec![], 0, false),
        (vec![node(2, Some((1, "..")))], 4, vec![], 0, false),
        (vec![node(2, Some((1, "a/b")))], 4, vec![], 0, false),
        (vec![], 1, vec![], u64::MAX, false),
        (vec![], 1, vec![handle(7)], 6, false),
    ] {
        let saved = SavedSession {
            begun: true,
            nodes,
            last_node,
            handles,
            last_handle,
        };
        assert_eq!(c.server.restore(&saved).is_ok(), good, "{saved:?}");
    }
}
