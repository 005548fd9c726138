//! Sessions that are saved and go on.

use super::client::{Client, LIMITS};
use crate::abi::ROOT;
use crate::{Limits, SavedSession, ShareOptions};
use rustix::io::Errno;
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
