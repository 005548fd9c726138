//! What is written, as e2fsprogs sees it.

use donjon_ext4::{Kind, Limits, Metadata, Options, Spool, Timestamp, Tree, write};
use std::fs::File;
use std::path::Path;
use std::process::Command;

fn tree() -> Tree {
    let file = tempfile::tempfile().expect("a spool");
    Tree::new(Spool::new(file), Limits::default())
}

/// Writes the tree and has it checked.
fn checked(tree: &Tree, options: &Options, path: &Path) {
    let out = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path);
    write(tree, options, &out.expect("a disk")).expect("written");
    e2fsck(path);
}

fn e2fsck(path: &Path) {
    let out = Command::new("/sbin/e2fsck")
        .arg("-fn")
        .arg(path)
        .output()
        .expect("e2fsck runs");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn empty_disks_of_any_size_are_clean() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk");
    for size in [
        16 << 20,
        (16 << 20) + 5,
        100 << 20,
        (128 << 20) + 4096 * 40,
        (128 << 20) + (9 << 20),
        511 << 20,
        512 << 20,
        1 << 30,
        (2 << 30) + (3 << 20),
        10 << 30,
        (10 << 30) + (130 << 20),
        1 << 40,
    ] {
        println!("{size}");
        checked(&tree(), &Options::new(size), &path);
    }
}

#[test]
fn every_kind_of_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut tree = tree();
    let mut meta = Metadata::new(0o644);
    meta.uid = 70000;
    meta.gid = 1_000_000;
    meta.mtime = Timestamp {
        seconds: 1_700_000_000,
        nanoseconds: 123_456_789,
    };
    let mut content = tree.store(&mut &b"hello\n"[..]).unwrap();
    meta.xattrs
        .insert(b"security.capability"[..].into(), vec![1; 20].into());
    tree.insert("a/b/c", Kind::File(content), meta.clone()).unwrap();
    meta.xattrs.insert(b"user.large"[..].into(), vec![7; 3001].into());
    content = tree.store(&mut std::io::repeat(3).take(40 << 20)).unwrap();
    tree.insert("a/b/large", Kind::File(content), meta.clone())
        .unwrap();
    tree.link("a/b/link", "a/b/c").unwrap();
    tree.insert(
        "dev/null",
        Kind::CharDevice { major: 1, minor: 3 },
        Metadata::new(0o666),
    )
    .unwrap();
    tree.insert(
        "dev/x",
        Kind::BlockDevice {
            major: 259,
            minor: 70000,
        },
        Metadata::new(0o666),
    )
    .unwrap();
    tree.insert("fifo", Kind::Fifo, Metadata::new(0o666)).unwrap();
    tree.insert("socket", Kind::Socket, Metadata::new(0o666)).unwrap();
    tree.insert("s", Kind::Symlink(b"a/b"[..].into()), Metadata::new(0o777))
        .unwrap();
    tree.insert("l", Kind::Symlink(vec![b'x'; 59].into()), Metadata::new(0o777))
        .unwrap();
    tree.insert("l2", Kind::Symlink(vec![b'x'; 60].into()), Metadata::new(0o777))
        .unwrap();
    tree.insert("l3", Kind::Symlink(vec![b'x'; 4095].into()), Metadata::new(0o777))
        .unwrap();
    for n in 0..50_000 {
        let content = tree.store(&mut &b""[..]).unwrap();
        tree.insert(
            format!("many/file-number-{n}"),
            Kind::File(content),
            Metadata::new(0o600),
        )
        .unwrap();
    }
    checked(&tree, &Options::new(1 << 30), &dir.path().join("disk"));
}

use std::io::Read;
