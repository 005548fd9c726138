//! Whom files belong to.

use super::client::{Client, LIMITS};
use crate::abi::{ROOT, op};
use crate::owner::ATTRIBUTE;
use crate::{Ids, ShareOptions};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A guest of an ordinary user, or of one who says whom his files belong to.
fn mapped(uid: u32, gid: u32) -> Client {
    let options = ShareOptions {
        read_only: false,
        owner: Some(Ids { uid, gid }),
    };
    Client::with(&options, &LIMITS)
}

/// Whether the file system of temporary files has attributes.
fn has_attributes(c: &Client) -> bool {
    fs::write(c.host("probe"), "").unwrap();
    let set = rustix::fs::setxattr(
        c.host("probe"),
        "user.probe",
        b"1",
        rustix::fs::XattrFlags::empty(),
    );
    fs::remove_file(c.host("probe")).unwrap();
    set.is_ok()
}

#[test]
fn the_users_files_are_one_users_in_the_guest() {
    let c = mapped(1000, 100);
    fs::write(c.host("f"), "").unwrap();
    let f = c.lookup(ROOT, "f").unwrap();
    assert_eq!((f.attr.uid, f.attr.gid), (1000, 100));
    let c = mapped(0, 0);
    let (made, _) = c.create(ROOT, "f", 2, 0o644).unwrap();
    assert_eq!((made.attr.uid, made.attr.gid), (0, 0));
    let me = c.host("f").metadata().unwrap();
    assert_eq!(me.uid(), rustix::process::geteuid().as_raw());
    c.chown(made.node, 0, 0).unwrap();
}

#[test]
fn what_the_guest_gives_away_stays_given() {
    let mut c = mapped(0, 0);
    let attributes = has_attributes(&c);
    let before = c.mkdir(ROOT, "d", 0o755).unwrap();
    let (f, _) = c.create(ROOT, "f", 2, 0o444).unwrap();
    for entry in [before, f] {
        let given = c.chown(entry.node, 999, 33);
        if !attributes {
            assert_eq!(given, Err(Errno::PERM));
            continue;
        }
        assert_eq!(given.map(|a| (a.uid, a.gid)), Ok((999, 33)));
        assert_eq!(given.unwrap().mode, entry.attr.mode);
    }
    let host = c.host("f").metadata().unwrap();
    assert_eq!(
        host.uid(),
        rustix::process::geteuid().as_raw(),
        "on the host nothing changes"
    );
    if !attributes {
        return;
    }
    assert_eq!(c.lookup(ROOT, "f").unwrap().attr.uid, 999);
    // The guest neither sees nor changes how that is noted.
    c.chmod(f.node, 0o644).unwrap();
    assert_eq!(c.listxattr(f.node, 1000), Ok(vec![]));
    assert_eq!(c.getxattr(f.node, ATTRIBUTE, 100), Err(Errno::OPNOTSUPP));
    assert_eq!(c.setxattr(f.node, ATTRIBUTE, b"0:0"), Err(Errno::OPNOTSUPP));
    assert_eq!(c.removexattr(f.node, ATTRIBUTE), Err(Errno::OPNOTSUPP));
    c.chmod(f.node, 0o6755).unwrap();
    let given = c.chown(f.node, 0, 0).unwrap();
    assert_eq!((given.uid, given.mode), (0, 0o100_755), "it runs as nobody else");
    assert_eq!(c.lookup(ROOT, "f").unwrap().attr.uid, 0);
    // What others make is theirs, and their group's if the directory says so.
    (c.uid, c.gid) = (7, 8);
    let (made, _) = c.create(ROOT, "g", 2, 0o600).unwrap();
    assert_eq!((made.attr.uid, made.attr.gid, made.attr.mode), (7, 8, 0o100_600));
    c.chmod(before.node, 0o2777).unwrap();
    let made = c.mkdir(before.node, "e", 0o700).unwrap();
    assert_eq!((made.attr.uid, made.attr.gid, made.attr.mode), (7, 33, 0o042_700));
    // Links and special files belong to whom they may.
    let link = c.symlink(ROOT, "l", "f").unwrap();
    c.chown(link.node, 5, 5).unwrap();
    assert_eq!(c.lookup(ROOT, "f").unwrap().attr.uid, 0);
}

#[test]
fn attributes_are_the_guests() {
    let c = Client::new();
    if !has_attributes(&c) {
        let f = c.mkdir(ROOT, "d", 0o755).unwrap();
        assert_eq!(c.setxattr(f.node, "user.a", b"1"), Err(Errno::OPNOTSUPP));
        return;
    }
    let (f, _) = c.create(ROOT, "f", 2, 0o644).unwrap();
    c.setxattr(f.node, "user.a", b"first").unwrap();
    c.setxattr(f.node, "user.b", &[7; 3000]).unwrap();
    assert_eq!(c.getxattr(f.node, "user.a", 0).unwrap()[..4], 5u32.to_le_bytes());
    assert_eq!(c.getxattr(f.node, "user.a", 10).unwrap(), b"first");
    assert_eq!(c.getxattr(f.node, "user.a", 4), Err(Errno::RANGE));
    assert_eq!(c.getxattr(f.node, "user.b", 4000).unwrap(), [7; 3000]);
    assert_eq!(c.getxattr(f.node, "user.c", 10), Err(Errno::NODATA));
    assert_eq!(c.listxattr(f.node, 100).unwrap(), b"user.a\0user.b\0");
    assert_eq!(c.listxattr(f.node, 0).unwrap()[..4], 14u32.to_le_bytes());
    assert_eq!(c.listxattr(f.node, 13), Err(Errno::RANGE));
    c.removexattr(f.node, "user.a").unwrap();
    assert_eq!(c.removexattr(f.node, "user.a"), Err(Errno::NODATA));
    // As setxattr(2) has it, XATTR_CREATE and XATTR_REPLACE.
    let set = |flags: u32, name: &[u8]| {
        let body = [&1u32.to_le_bytes()[..], &flags.to_le_bytes(), name, b"\0x"].concat();
        c.ask(op::SETXATTR, f.node, &body, 0)
    };
    assert_eq!(set(1, b"user.b"), Err(Errno::EXIST));
    assert_eq!(set(2, b"user.z"), Err(Errno::NODATA));
    assert_eq!(set(4, b"user.z"), Err(Errno::INVAL));
    for name in [
        "security.selinux",
        "system.posix_acl_access",
        "trusted.a",
        "nonsense",
    ] {
        assert_eq!(c.setxattr(f.node, name, b"1"), Err(Errno::OPNOTSUPP), "{name}");
        assert_eq!(c.getxattr(f.node, name, 10), Err(Errno::OPNOTSUPP), "{name}");
    }
}

#[test]
fn root_keeps_the_owners_that_there_are() {
    if !rustix::process::geteuid().is_root() {
        // Then there is nothing to keep: the same without the owner in the options is mapped.
        let c = Client::new();
        assert_eq!(c.mkdir(ROOT, "d", 0o755).unwrap().attr.uid, 0);
        return;
    }
    let mut c = Client::new();
    (c.uid, c.gid) = (1234, 567);
    let (f, _) = c.create(ROOT, "f", 2, 0o4755).unwrap();
    let host = c.host("f").metadata().unwrap();
    assert_eq!((host.uid(), host.gid(), host.mode()), (1234, 567, 0o104_755));
    assert_eq!((f.attr.uid, f.attr.gid, f.attr.mode), (1234, 567, 0o104_755));
    let link = c.symlink(ROOT, "l", "f").unwrap();
    c.chown(link.node, 5, 6).unwrap();
    assert_eq!(c.host("l").symlink_metadata().unwrap().uid(), 5);
    assert_eq!(c.host("f").metadata().unwrap().uid(), 1234);
    c.chown(f.node, 99, 98).unwrap();
    assert_eq!(c.host("f").metadata().unwrap().gid(), 98);
}
