use super::client::{Client, half, number};
use crate::abi::{MAX_WRITE, ROOT, fattr, init, op};
use crate::nodes::State;
use crate::wire::Output;
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

const RDONLY: i32 = 0;
const WRONLY: i32 = 1;
const RDWR: i32 = 2;
const EXCL: i32 = 0o200;
const TRUNC: i32 = 0o1000;
const APPEND: i32 = 0o2000;

#[test]
fn a_session_begins_with_its_version_and_what_is_offered() {
    let c = Client::new();
    let out = c.init();
    assert_eq!((half(&out, 0), half(&out, 4)), (7, 38));
    assert_eq!(half(&out, 12), init::OFFERED);
    assert_eq!(half(&out, 20), MAX_WRITE);
    assert_eq!(out[28..30], 256u16.to_le_bytes());
    let begin = |major: u32, minor: u32| {
        let body = [major, minor, 0, 0].map(u32::to_le_bytes).concat();
        c.ask(op::INIT, 0, &body, 64)
    };
    assert_eq!(half(&begin(7, 31).unwrap(), 4), 31);
    assert_eq!(begin(7, 30), Err(Errno::PROTO));
    assert_eq!(begin(6, 40), Err(Errno::PROTO));
    assert_eq!(half(&begin(8, 1).unwrap(), 0), 7);
    c.ask(op::DESTROY, 0, &[], 0).unwrap();
    assert_eq!(c.lookup(ROOT, "a"), Err(Errno::IO), "it has not begun again");
    begin(7, 40).unwrap();
    assert_eq!(c.lookup(ROOT, "a"), Err(Errno::NOENT));
}

#[test]
fn files_are_written_and_read() {
    let c = Client::new();
    let (made, handle) = c.create(ROOT, "f", RDWR | EXCL, 0o100_664).unwrap();
    assert_eq!(made.attr.mode, 0o100_664, "whatever the umask of this process is");
    assert_eq!(c.create(ROOT, "f", RDWR | EXCL, 0o644), Err(Errno::EXIST));
    let data: Vec<u8> = (0..700_001u32).map(|n| (n * 7) as u8).collect();
    assert_eq!(c.write(handle, 10, &data), Ok(data.len()));
    assert_eq!(fs::read(c.host("f")).unwrap(), [&[0; 10], &data[..]].concat());
    assert_eq!(c.read(handle, 10, 700_001).unwrap(), data);
    assert_eq!(c.read(handle, 700_000, 100).unwrap(), data[699_990..]);
    assert_eq!(c.read(handle, 1 << 40, 100).unwrap(), []);
    assert_eq!(c.read(handle, u64::MAX, 100), Err(Errno::INVAL));
    assert_eq!(c.write(handle, u64::MAX, b"x"), Err(Errno::INVAL));
    assert_eq!(c.getattr(made.node).unwrap().size, 700_011);
    assert_eq!(
        c.getattr_by(handle).unwrap().ino,
        c.host("f").metadata().unwrap().ino()
    );
    c.truncate(made.node, 3).unwrap();
    c.release(handle).unwrap();
    assert_eq!(c.release(handle), Err(Errno::BADF));
    assert_eq!(c.read(handle, 0, 1), Err(Errno::BADF));

    // What the host does is seen at once.
    fs::write(c.host("f"), b"host").unwrap();
    let handle = c.open(made.node, RDONLY).unwrap();
    assert_eq!(c.read(handle, 0, 10).unwrap(), b"host");
    assert_eq!(c.write(handle, 0, b"x"), Err(Errno::BADF));
    // Appending goes behind what the host has appended meanwhile.
    let appending = c.open(made.node, WRONLY | APPEND).unwrap();
    fs::write(c.host("f"), b"longer").unwrap();
    assert_eq!(c.write_with(appending, 4, b"+", 0, WRONLY | APPEND), Ok(1));
    assert_eq!(fs::read(c.host("f")).unwrap(), b"longer+");
    let cut = c.open(made.node, WRONLY | TRUNC).unwrap();
    assert_eq!(c.getattr_by(cut).unwrap().size, 0);
    // A file that the guest did not know of.
    fs::write(c.host("g"), b"there").unwrap();
    let (found, handle) = c.create(ROOT, "g", RDWR, 0o644).unwrap();
    assert_eq!(
        (found.attr.size, c.read(handle, 0, 9).unwrap()),
        (5, b"there".into())
    );
}

#[test]
fn what_a_guest_keeps_of_a_file_is_dropped_when_that_has_changed() {
    let c = Client::new();
    fs::write(c.host("f"), "one").unwrap();
    let f = c.lookup(ROOT, "f").unwrap().node;
    let state = |after: i64| {
        let stat = crate::host::stat(fs::File::open(c.host("f")).unwrap()).unwrap();
        State::of(&stat, stat.stx_ctime.tv_sec + after)
    };
    // It may change again at the same time.
    assert!(state(0).is_none() && state(2).is_none() && state(3).is_some());
    assert!(!c.server.nodes.is_unchanged(f, state(3)), "it was not open");
    assert!(c.server.nodes.is_unchanged(f, state(3)));
    assert!(!c.server.nodes.is_unchanged(f, state(0)));
    assert!(!c.server.nodes.is_unchanged(f, state(3)));
    fs::write(c.host("f"), "other").unwrap();
    assert!(!c.server.nodes.is_unchanged(f, state(3)));
    assert!(c.server.nodes.is_unchanged(f, state(3)));
    assert!(!c.server.nodes.is_unchanged(99, state(3)));
    // As requests have it: it has changed just now.
    for _ in 0..2 {
        let out = c.ask(op::OPEN, f, &[0; 8], 16).unwrap();
        assert_eq!(half(&out, 8), 0);
    }
}

#[test]
fn directories_have_their_names_once_however_they_are_read() {
    let c = Client::new();
    let d = c.mkdir(ROOT, "d", 0o755).unwrap().node;
    let mut expected: Vec<String> = (0..500).map(|n| format!("{n}-{}", "x".repeat(n % 97))).collect();
    for name in &expected {
        fs::write(c.host("d").join(name), "").unwrap();
    }
    expected.sort();
    assert_eq!(c.names(d).unwrap(), expected);
    let handle = c.opendir(d).unwrap();
    let (mut names, mut offset) = (vec![], 0);
    loop {
        let some = c.entries(handle, offset, 4096, true).unwrap();
        let Some(last) = some.last() else { break };
        offset = last.2;
        for (name, node, _, kind) in some {
            if name.starts_with('.') {
                assert_eq!((node, kind), (0, 4));
            } else {
                assert_eq!(kind, 8);
                assert_eq!(c.lookup(d, &name).unwrap().node, node);
                names.push(name);
            }
        }
    }
    names.sort();
    assert_eq!(names, expected);
    assert_eq!(
        c.entries(handle, 0, 10, false),
        Err(Errno::INVAL),
        "no room for one"
    );
    assert_eq!(c.read(handle, 0, 1), Err(Errno::ISDIR));
    assert_eq!(c.rmdir(ROOT, "d"), Err(Errno::NOTEMPTY));
    for name in &expected {
        c.unlink(d, name).unwrap();
    }
    assert_eq!(c.unlink(ROOT, "d"), Err(Errno::ISDIR));
    c.rmdir(ROOT, "d").unwrap();
    assert!(!c.host("d").exists());
}

#[test]
fn names_change() {
    let c = Client::new();
    let d = c.mkdir(ROOT, "d", 0o755).unwrap().node;
    let (a, handle) = c.create(ROOT, "a", RDWR, 0o644).unwrap();
    c.write(handle, 0, b"A").unwrap();
    c.rename(ROOT, "a", d, "b", 0).unwrap();
    assert_eq!(c.lookup(d, "b").unwrap().node, a.node);
    assert_eq!(c.lookup(ROOT, "a"), Err(Errno::NOENT));
    let (other, _) = c.create(ROOT, "a", RDWR, 0o644).unwrap();
    assert_eq!(c.rename(ROOT, "a", d, "b", 1), Err(Errno::EXIST));
    c.rename(ROOT, "a", d, "b", 2).unwrap();
    assert_eq!(c.lookup(ROOT, "a").unwrap().node, a.node);
    assert_eq!(c.lookup(d, "b").unwrap().node, other.node);
    c.rename(ROOT, "a", d, "b", 0).unwrap();
    assert_eq!(c.lookup(d, "b").unwrap().node, a.node);
    assert_eq!(
        c.getattr(other.node).unwrap().nlink,
        0,
        "it has no name, but is there"
    );
    assert_eq!(c.rename(ROOT, "d", d, "e", 0), Err(Errno::INVAL), "into itself");
    assert_eq!(c.rename(ROOT, "d", d, "e", 8), Err(Errno::INVAL));
    let linked = c.link(a.node, ROOT, "link").unwrap();
    assert_eq!((linked.node, linked.attr.nlink), (a.node, 2));
    c.unlink(d, "b").unwrap();
    c.unlink(ROOT, "link").unwrap();
    assert_eq!(c.read(handle, 0, 1).unwrap(), b"A");
    assert_eq!(c.getattr_by(handle).unwrap().nlink, 0);
}

#[test]
fn attributes_change() {
    let c = Client::new();
    let (f, _) = c.create(ROOT, "f", RDWR, 0o600).unwrap();
    assert_eq!(c.chmod(f.node, 0o4751).unwrap().mode, 0o104_751);
    let m = |name: &str| c.host(name).symlink_metadata().unwrap();
    assert_eq!(m("f").permissions().mode(), 0o104_751);
    let set = c
        .setattr(f.node, fattr::MTIME, 0, 1_000_000_007, 0, (0, 0))
        .unwrap();
    assert_eq!(set.mtime, 1_000_000_007);
    let before = m("f");
    assert_eq!((before.mtime(), before.mtime_nsec()), (1_000_000_007, 5));
    c.setattr(f.node, fattr::MTIME | fattr::MTIME_NOW, 0, 0, 0, (0, 0))
        .unwrap();
    assert!(m("f").mtime() > 1_600_000_000);
    // A link is not followed, and has no permissions.
    fs::write(c.host("victim"), "").unwrap();
    let link = c.symlink(ROOT, "l", "victim").unwrap();
    assert_eq!(c.readlink(link.node).unwrap(), "victim");
    assert_eq!(c.readlink(f.node), Err(Errno::INVAL));
    assert_eq!(c.chmod(link.node, 0o777), Err(Errno::OPNOTSUPP));
    c.setattr(link.node, fattr::MTIME, 0, 99, 0, (0, 0)).unwrap();
    assert_eq!(m("l").mtime(), 99);
    assert_ne!(m("victim").mtime(), 99);
    assert_eq!(c.truncate(link.node, 0), Err(Errno::INVAL));
    assert_eq!(c.truncate(ROOT, 0), Err(Errno::INVAL));
    let out = c.ask(op::STATFS, ROOT, &[], 80).unwrap();
    assert_eq!((out.len(), half(&out, 44)), (80, 255));
    assert!(number(&out, 0) > 0);
}

#[test]
fn set_id_bits_go_when_files_change() {
    let c = Client::new();
    let (f, handle) = c.create(ROOT, "f", RDWR, 0o755).unwrap();
    let mode = || c.getattr(f.node).unwrap().mode;
    c.chmod(f.node, 0o6755).unwrap();
    c.write_with(handle, 0, b"x", 1 << 2, 0).unwrap();
    assert_eq!(mode(), 0o100_755);
    c.chmod(f.node, 0o6745).unwrap();
    c.setattr(f.node, fattr::SIZE | fattr::KILL_SUIDGID, 0, 0, 0, (0, 0))
        .unwrap();
    assert_eq!(mode() & 0o4000, 0);
    assert_eq!(mode() & 0o777, 0o745);
    c.chmod(f.node, 0o4755).unwrap();
    let body = [(WRONLY | TRUNC) as u32, 1].map(u32::to_le_bytes).concat();
    c.ask(op::OPEN, f.node, &body, 16).unwrap();
    assert_eq!(mode(), 0o100_755);
}

#[test]
fn special_files_are_names_that_nobody_opens() {
    let c = Client::new();
    let fifo = c.mknod(ROOT, "fifo", 0o010_644, 0).unwrap();
    c.mknod(ROOT, "socket", 0o140_644, 0).unwrap();
    c.mknod(ROOT, "file", 0o100_640, 0).unwrap();
    assert!(c.host("fifo").symlink_metadata().unwrap().file_type().is_fifo());
    assert!(
        c.host("socket")
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_socket()
    );
    assert_eq!(c.host("file").metadata().unwrap().mode(), 0o100_640);
    // /dev/null and /dev/loop0.
    assert_eq!(c.mknod(ROOT, "null", 0o020_666, 0x103), Err(Errno::PERM));
    assert_eq!(c.mknod(ROOT, "loop", 0o060_666, 0x700), Err(Errno::PERM));
    for flags in [RDONLY, WRONLY, RDWR] {
        assert_eq!(c.open(fifo.node, flags), Err(Errno::NXIO));
        // Opening it would wait for somebody at its other end.
        assert_eq!(c.create(ROOT, "fifo", flags, 0o644), Err(Errno::STALE));
    }
    assert_eq!(c.opendir(fifo.node), Err(Errno::NOTDIR));
    c.chmod(fifo.node, 0o600).unwrap();
}

#[test]
fn space_is_given_taken_sought_and_copied() {
    let c = Client::new();
    let (_, f) = c.create(ROOT, "f", RDWR, 0o644).unwrap();
    let fallocate = |offset: u64, len: u64, mode: u32| {
        let mut body = Output::default();
        body.u64(f).u64(offset).u64(len).u32(mode).u32(0);
        c.ask(op::FALLOCATE, ROOT, &body.0, 0)
    };
    fallocate(0, 1 << 20, 0).unwrap();
    assert_eq!(c.getattr_by(f).unwrap().size, 1 << 20);
    assert_eq!(fallocate(0, 1, 0x80), Err(Errno::OPNOTSUPP));
    let data = vec![7; 1 << 20];
    c.write(f, 0, &data).unwrap();
    fallocate(64 << 10, 64 << 10, 3).unwrap();
    assert_eq!(c.read(f, 100_000, 8).unwrap(), [0; 8]);
    let lseek = |offset: u64, whence: u32| {
        let mut body = Output::default();
        body.u64(f).u64(offset).u32(whence).u32(0);
        Ok::<_, Errno>(number(&c.ask(op::LSEEK, ROOT, &body.0, 8)?, 0))
    };
    let hole = lseek(0, 4).unwrap();
    // Not every file system has holes.
    assert!(hole == 64 << 10 || hole == 1 << 20, "{hole}");
    assert_eq!(lseek(1 << 30, 3), Err(Errno::NXIO));
    assert_eq!(lseek(0, 2), Err(Errno::INVAL));
    let (_, g) = c.create(ROOT, "g", RDWR, 0o644).unwrap();
    let mut body = Output::default();
    body.u64(f).u64(5).u64(0).u64(g).u64(3).u64(1000).u64(0);
    let out = c.ask(op::COPY_FILE_RANGE, ROOT, &body.0, 8).unwrap();
    assert_eq!(half(&out, 0), 1000);
    assert_eq!(fs::read(c.host("g")).unwrap(), [&[0; 3], &data[..1000]].concat());
    for (op, flags) in [(op::FSYNC, 0), (op::FSYNC, 1)] {
        let mut body = Output::default();
        body.u64(f).u32(flags).u32(0);
        c.ask(op, ROOT, &body.0, 0).unwrap();
    }
    let mut body = Output::default();
    body.u64(c.opendir(ROOT).unwrap()).u32(0).u32(0);
    c.ask(op::FSYNCDIR, ROOT, &body.0, 0).unwrap();
    c.ask(op::SYNCFS, ROOT, &[0; 8], 0).unwrap();
}

#[test]
fn what_is_not_done_here_is_said() {
    let c = Client::new();
    // FLUSH, GETLK, ACCESS, IOCTL, POLL, SETUPMAPPING, TMPFILE, and what nobody knows.
    for op in [25, 31, 34, 39, 40, 48, 51, 99, u32::MAX] {
        assert_eq!(c.ask(op, ROOT, &[0; 64], 64), Err(Errno::NOSYS), "{op}");
    }
    assert_eq!(c.ask(op::INTERRUPT, 0, &[0; 8], 0), Ok(vec![]));
}

#[test]
fn a_read_only_share_refuses_all_changes() {
    let options = crate::ShareOptions {
        read_only: true,
        owner: None,
    };
    let c = Client::with(&options, &super::client::LIMITS);
    fs::write(c.host("f"), "content").unwrap();
    fs::create_dir(c.host("d")).unwrap();
    let f = c.lookup(ROOT, "f").unwrap().node;
    let handle = c.open(f, RDONLY).unwrap();
    assert_eq!(c.read(handle, 0, 100).unwrap(), b"content");
    for flags in [WRONLY, RDWR, RDONLY | TRUNC, 3] {
        assert_eq!(c.open(f, flags), Err(Errno::ROFS), "{flags:o}");
    }
    let refused = [
        c.create(ROOT, "g", RDWR, 0o644).map(drop),
        c.create(ROOT, "f", RDONLY, 0o644).map(drop),
        c.write(handle, 0, b"x").map(drop),
        c.chmod(f, 0).map(drop),
        c.mkdir(ROOT, "e", 0o755).map(drop),
        c.mknod(ROOT, "n", 0o100_644, 0).map(drop),
        c.symlink(ROOT, "l", "f").map(drop),
        c.link(f, ROOT, "h").map(drop),
        c.unlink(ROOT, "f"),
        c.rmdir(ROOT, "d"),
        c.rename(ROOT, "f", ROOT, "g", 0),
        c.setxattr(f, "user.a", b"1"),
        c.removexattr(f, "user.a"),
        c.ask(op::FALLOCATE, f, &[0; 32], 0).map(drop),
        c.ask(op::COPY_FILE_RANGE, f, &[0; 56], 8).map(drop),
        c.ask(op::RENAME, ROOT, &[0; 32], 8).map(drop),
    ];
    for (n, result) in refused.into_iter().enumerate() {
        assert_eq!(result, Err(Errno::ROFS), "{n}");
    }
    assert_eq!(c.names(ROOT).unwrap(), ["d", "f"]);
}
