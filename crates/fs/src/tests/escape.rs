//! Attempts to leave the shared directory.

use super::client::Client;
use crate::abi::{ROOT, op};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A share with a secret beside it.
fn beside_a_secret() -> Client {
    let c = Client::new();
    fs::write(c.place.path().join("secret"), "secret").unwrap();
    fs::create_dir(c.place.path().join("outside")).unwrap();
    fs::write(c.place.path().join("outside/f"), "secret").unwrap();
    fs::create_dir(c.host("d")).unwrap();
    fs::write(c.host("d/f"), "shared").unwrap();
    c
}

#[test]
fn names_lead_nowhere_but_down() {
    let c = beside_a_secret();
    let d = c.lookup(ROOT, "d").unwrap().node;
    let f = c.lookup(d, "f").unwrap().node;
    for name in ["..", ".", "", "/", "../secret", "d/f", "/etc/passwd", "d/", "./d"] {
        assert_eq!(c.lookup(ROOT, name), Err(Errno::INVAL), "{name:?}");
        assert_eq!(c.lookup(d, name), Err(Errno::INVAL), "{name:?}");
        assert_eq!(c.mkdir(d, name, 0o755), Err(Errno::INVAL), "{name:?}");
        assert_eq!(c.mknod(d, name, 0o100_644, 0), Err(Errno::INVAL), "{name:?}");
        assert_eq!(c.symlink(d, name, "x"), Err(Errno::INVAL), "{name:?}");
        assert_eq!(c.link(f, d, name), Err(Errno::INVAL), "{name:?}");
        assert_eq!(c.unlink(d, name), Err(Errno::INVAL), "{name:?}");
        assert_eq!(c.rmdir(d, name), Err(Errno::INVAL), "{name:?}");
        assert_eq!(c.rename(d, "f", ROOT, name, 0), Err(Errno::INVAL), "{name:?}");
        assert_eq!(c.rename(d, name, ROOT, "x", 0), Err(Errno::INVAL), "{name:?}");
        assert_eq!(c.create(d, name, 2, 0o644), Err(Errno::INVAL), "{name:?}");
    }
    // Without its NUL, and with another inside.
    assert_eq!(c.ask(op::LOOKUP, ROOT, b"d", 128), Err(Errno::INVAL));
    assert_eq!(c.lookup(ROOT, "d\0../../secret").unwrap().node, d);
    assert_eq!(c.lookup(ROOT, &"x".repeat(256)), Err(Errno::NAMETOOLONG));
    // What the shared directory is in is not told.
    let handle = c.opendir(ROOT).unwrap();
    let above = fs::metadata(c.place.path()).unwrap();
    let mut body = handle.to_le_bytes().to_vec();
    body.extend([0; 8]);
    body.extend(4096u32.to_le_bytes());
    body.extend([0; 20]);
    let out = c.ask(op::READDIR, ROOT, &body, 4096).unwrap();
    let number = std::os::unix::fs::MetadataExt::ino(&above).to_le_bytes();
    assert!(!out.windows(8).any(|w| w == number));
}

#[test]
fn links_are_not_followed() {
    let c = beside_a_secret();
    for (name, target) in [
        ("relative", "../secret"),
        ("absolute", "/etc/passwd"),
        ("directory", "../outside"),
        ("above", ".."),
        ("magic", "/proc/self/root"),
        ("inside", "d"),
    ] {
        symlink(target, c.host(name)).unwrap();
        let link = c.lookup(ROOT, name).unwrap();
        assert_eq!(link.attr.mode >> 12, 0o12);
        assert_eq!(c.readlink(link.node).unwrap(), target);
        for flags in [0, 1, 2, 0o1002] {
            assert_eq!(c.open(link.node, flags), Err(Errno::LOOP), "{name}");
            let created = c.create(ROOT, name, flags, 0o644).unwrap_err();
            assert_eq!(created, Errno::STALE, "{name}");
        }
        assert_eq!(c.opendir(link.node), Err(Errno::NOTDIR));
        assert_eq!(c.lookup(link.node, "f"), Err(Errno::NOTDIR));
        assert_eq!(c.lookup(link.node, "etc"), Err(Errno::NOTDIR));
        assert_eq!(c.mkdir(link.node, "new", 0o755), Err(Errno::NOTDIR));
        assert_eq!(c.create(link.node, "new", 2, 0o644), Err(Errno::NOTDIR));
        assert_eq!(c.unlink(link.node, "f"), Err(Errno::NOTDIR));
        assert_eq!(
            c.setxattr(link.node, "user.x", b"1").unwrap_err(),
            Errno::PERM,
            "the link's own"
        );
        let linked = c.link(link.node, ROOT, "another").unwrap();
        assert_eq!(linked.node, link.node);
        c.unlink(ROOT, "another").unwrap();
    }
    assert_eq!(fs::read(c.place.path().join("secret")).unwrap(), b"secret");
    assert!(!c.place.path().join("outside/new").exists());
}

/// Does what `swap` says until `act` has been done often enough.
fn while_swapping(swap: impl Fn() + Sync, act: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !done.load(Relaxed) {
                swap();
            }
        });
        act();
        done.store(true, Relaxed);
    });
}

#[test]
fn what_is_swapped_for_a_link_meanwhile_is_not_followed() {
    let c = beside_a_secret();
    symlink("../outside", c.host("link")).unwrap();
    let (d, link) = (c.host("d"), c.host("link"));
    let exchange = || {
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            &d,
            rustix::fs::CWD,
            &link,
            rustix::fs::RenameFlags::EXCHANGE,
        )
        .unwrap();
    };
    let mut found = 0;
    while_swapping(exchange, || {
        for n in 0..3000 {
            let Ok(entry) = c.lookup(ROOT, "d") else { continue };
            if let Ok(f) = c.lookup(entry.node, "f") {
                let handle = c.open(f.node, 0).unwrap();
                assert_eq!(c.read(handle, 0, 10).unwrap(), b"shared");
                c.release(handle).unwrap();
                c.forget(f.node, 1);
                found += 1;
            }
            let name = format!("n{n}");
            if c.create(entry.node, &name, 1, 0o644)
                .map(|(e, h)| (c.release(h).unwrap(), c.forget(e.node, 1)))
                .is_ok()
            {
                let _ = c.unlink(entry.node, &name);
            }
            c.forget(entry.node, 1);
        }
    });
    assert!(found > 0, "it was never there");
    let outside: Vec<_> = fs::read_dir(c.place.path().join("outside")).unwrap().collect();
    assert_eq!(outside.len(), 1, "{outside:?}");
}

#[test]
fn a_file_swapped_for_a_fifo_or_a_link_is_not_opened() {
    let c = beside_a_secret();
    symlink("../secret", c.host("l")).unwrap();
    c.mknod(ROOT, "p", 0o010_644, 0).unwrap();
    fs::write(c.host("a"), "shared").unwrap();
    let rotate = || {
        for (from, to) in [
            ("a", "x"),
            ("l", "a"),
            ("a", "l"),
            ("p", "a"),
            ("a", "p"),
            ("x", "a"),
        ] {
            fs::rename(c.host(from), c.host(to)).unwrap();
        }
    };
    let mut opened = 0;
    // Opening the FIFO to read would wait forever.
    let guest = c.other();
    while_swapping(rotate, || {
        for _ in 0..3000 {
            if let Ok((entry, handle)) = guest.create(ROOT, "a", 0, 0o644) {
                assert_eq!(guest.getattr_by(handle).unwrap().mode >> 12, 0o10);
                let content = guest.read(handle, 0, 10).unwrap();
                assert!(content == b"shared" || content.is_empty(), "{content:?}");
                guest.release(handle).unwrap();
                guest.forget(entry.node, 1);
                opened += 1;
            }
        }
    });
    assert!(opened > 0);
    assert_eq!(fs::read(c.place.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn directories_that_the_host_moves_about_stay_a_tree() {
    let c = Client::new();
    fs::create_dir_all(c.host("a/b/c")).unwrap();
    let a = c.lookup(ROOT, "a").unwrap().node;
    let b = c.lookup(a, "b").unwrap().node;
    let below = c.lookup(b, "c").unwrap().node;
    // b above a, while the guest thinks that it is below.
    fs::rename(c.host("a/b"), c.host("b")).unwrap();
    fs::rename(c.host("a"), c.host("b/a")).unwrap();
    assert_eq!(c.lookup(b, "a").unwrap().node, a);
    assert_eq!(c.lookup(ROOT, "b").unwrap().node, b);
    assert_eq!(c.names(b).unwrap(), ["a", "c"]);
    // Out of the shared directory: a node of it is not the way to others there.
    fs::rename(c.host("b"), c.place.path().join("b")).unwrap();
    assert_eq!(c.lookup(b, ".."), Err(Errno::INVAL));
    for node in [b, a, below] {
        c.forget(node, 10);
    }
    assert_eq!(c.getattr(b), Err(Errno::STALE));
}
