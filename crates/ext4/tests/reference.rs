//! What is written, as e2fsprogs and an independent reader see it; what is read, as GNU tar wrote it.

use donjon_ext4::{Kind, Limits, Metadata, Node, Options, Spool, Timestamp, Tree, required_size, write};
use ext4_view::Ext4;
use proptest::prelude::*;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

fn tree() -> Tree {
    let file = tempfile::tempfile().expect("a spool");
    Tree::new(Spool::new(file), Limits::default())
}

fn put(tree: &mut Tree, path: impl AsRef<[u8]>, mut bytes: impl Read) {
    let content = tree.store(&mut bytes).expect("stored");
    tree.insert(path, Kind::File(content), Metadata::new(0o644))
        .expect("inserted");
}

/// Writes the tree and has it checked.
fn checked(tree: &Tree, options: &Options, path: &Path) {
    let out = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path);
    let written = write(tree, options, &out.expect("a disk")).expect("written");
    assert!(written.used + written.free <= options.size);
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

fn debugfs(path: &Path, request: &str) -> String {
    let out = Command::new("/sbin/debugfs")
        .args(["-R", request])
        .arg(path)
        .output()
        .expect("debugfs runs");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Every node of the tree is in the file system as it should be.
fn compare(tree: &Tree, disk: &Path) {
    let view = Ext4::load_from_path(disk).expect("a file system");
    let mut ahead: Vec<(PathBuf, &Node)> = vec![("/".into(), tree.get("").expect("found").expect("a root"))];
    while let Some((path, node)) = ahead.pop() {
        let name = path.to_str().expect("text");
        let found = view.symlink_metadata(name).expect("metadata");
        let metadata = &node.metadata;
        assert_eq!(
            (found.uid(), found.gid(), found.mode() & 0o7777),
            (metadata.uid, metadata.gid, metadata.mode)
        );
        match node.kind() {
            Kind::Directory(_) => {
                let mut names: Vec<_> = view
                    .read_dir(name)
                    .expect("a directory")
                    .map(|e| {
                        e.expect("an entry")
                            .file_name()
                            .as_str()
                            .expect("text")
                            .to_owned()
                    })
                    .filter(|n| n != "." && n != ".." && n != "lost+found")
                    .collect();
                names.sort();
                let children: Vec<_> = tree.children(node).collect();
                let wanted = children
                    .iter()
                    .map(|(n, _)| String::from_utf8_lossy(n).into_owned());
                assert_eq!(names, wanted.collect::<Vec<_>>(), "{name}");
                for (n, child) in children {
                    ahead.push((path.join(String::from_utf8_lossy(n).as_ref()), child));
                }
            }
            Kind::File(content) => {
                assert_eq!(found.len(), content.size());
                let wanted = tree.read(name, u64::MAX).expect("read").expect("a file");
                assert!(view.read(name).expect("read") == wanted, "{name}");
            }
            Kind::Symlink(target) => {
                assert_eq!(view.read_link(name).expect("a link").as_path(), &target[..]);
            }
            Kind::CharDevice { .. } => assert!(found.file_type().is_char_dev()),
            Kind::BlockDevice { .. } => assert!(found.file_type().is_block_dev()),
            Kind::Fifo => assert!(found.file_type().is_fifo()),
            Kind::Socket => assert!(found.file_type().is_socket()),
        }
    }
}

#[test]
fn empty_disks_of_any_size_are_clean_and_sparse() {
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
        (2 << 30) + (3 << 20),
        (10 << 30) + (130 << 20),
        1 << 40,
    ] {
        checked(&tree(), &Options::new(size), &path);
        let allocated = path.metadata().expect("metadata").blocks() * 512;
        assert!(allocated < (5 << 20) + size / 30_000, "{allocated} of {size}");
    }
}

#[test]
fn every_kind_of_node_with_its_metadata() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    let mut tree = tree();
    let mut meta = Metadata::new(0o6755);
    meta.uid = 70000;
    meta.gid = 1_000_000;
    meta.mtime = Timestamp {
        seconds: 5_000_000_000,
        nanoseconds: 123_456_789,
    };
    let content = tree.store(&mut &b"hello\n"[..]).expect("stored");
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    meta.xattrs
        .insert(b"security.capability"[..].into(), capability[..].into());
    tree.insert("a/b/c", Kind::File(content), meta.clone())
        .expect("inserted");
    // Does not fit into the inode any more.
    meta.xattrs
        .insert(b"user.large"[..].into(), vec![b'7'; 3001].into());
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\x21\0\0\0\x04\0\x04\0\xff\xff\xff\xff\
                \x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    meta.xattrs
        .insert(b"system.posix_acl_access"[..].into(), acl[..].into());
    meta.xattrs
        .insert(b"com.example"[..].into(), b"no namespace of ext4"[..].into());
    let content = tree
        .store(&mut std::io::repeat(3).take(40 << 20))
        .expect("stored");
    tree.insert("a/b/large", Kind::File(content), meta.clone())
        .expect("inserted");
    tree.link("a/b/link", "a/b/c").expect("linked");
    let plain = |mode| Metadata::new(mode);
    tree.insert("dev/null", Kind::CharDevice { major: 1, minor: 3 }, plain(0o666))
        .expect("inserted");
    let kind = Kind::BlockDevice {
        major: 259,
        minor: 70000,
    };
    tree.insert("dev/disk", kind, plain(0o660)).expect("inserted");
    tree.insert("fifo", Kind::Fifo, plain(0o600)).expect("inserted");
    tree.insert("socket", Kind::Socket, plain(0o600))
        .expect("inserted");
    for len in [1, 59, 60, 4095] {
        let kind = Kind::Symlink(b"directory/".repeat(410)[..len].into());
        tree.insert(format!("link-{len}"), kind, plain(0o777))
            .expect("inserted");
    }
    checked(
        &tree,
        &Options {
            label: "root".into(),
            reserved_percent: 1,
            ..Options::new(1 << 30)
        },
        &disk,
    );
    compare(&tree, &disk);
    let stat = debugfs(&disk, "stat /a/b/c");
    assert!(stat.contains("Links: 2"), "{stat}");
    assert!(stat.contains("mtime: 0x2a05f200:1d6f3455"), "{stat}");
    assert!(stat.contains("security.capability (20) = 01 00 00 02"), "{stat}");
    let stat = debugfs(&disk, "stat /a/b/large");
    assert!(stat.contains("user.large (3001)"), "{stat}");
    let acls = debugfs(&disk, "ea_get -x /a/b/large system.posix_acl_access");
    assert!(
        acls.contains("(44) = 02 00 00 00 01 00 06 00 00 00 00 00 02 00 04 00 21 00 00 00 04 00 04 00"),
        "{acls}"
    );
    assert!(debugfs(&disk, "stat /dev/disk").contains("Device major/minor number: 259:70000"));
    assert!(debugfs(&disk, "stats").contains("Reserved block count:     2621"));
}

#[test]
fn a_directory_of_fifty_thousand_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    let mut tree = tree();
    for n in 0..50_000 {
        put(&mut tree, format!("many/file-number-{n}"), &b""[..]);
    }
    checked(&tree, &Options::new(1 << 30), &disk);
    let view = Ext4::load_from_path(&disk).expect("a file system");
    let names = view.read_dir("/many").expect("a directory").map(|e| {
        let entry = e.expect("an entry");
        entry.file_name().as_str().expect("text").to_owned()
    });
    let names: std::collections::HashSet<_> = names.collect();
    assert_eq!(names.len(), 50_002);
    assert!((0..50_000).all(|n| names.contains(&format!("file-number-{n}"))));
}

#[test]
fn holes_stay_holes() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    let mut tree = tree();
    // A gibibyte with something in three places, as GNU tar makes of it.
    let sparse = dir.path().join("sparse");
    let mut file = File::create(&sparse).expect("a file");
    for at in [5000, 500 << 20, (1 << 30) - 10] {
        file.seek(SeekFrom::Start(at)).expect("sought");
        file.write_all(b"something!").expect("written");
    }
    for format in ["gnu", "posix"] {
        let mut tar = Command::new("tar");
        tar.args(["-cSf", "-", "-H", format, "-C"])
            .arg(dir.path())
            .arg("sparse");
        let tar = tar.output().expect("tar runs").stdout;
        assert!(tar.len() < 100_000);
        tree.add_tar(&mut &tar[..]).expect("added");
        assert_eq!(tree.content_added() >> 30, if format == "gnu" { 1 } else { 2 });
        checked(&tree, &Options::new(64 << 20), &disk);
        let view = Ext4::load_from_path(&disk).expect("a file system");
        assert_eq!(view.metadata("/sparse").expect("metadata").len(), 1 << 30);
        let mut found = view.open("/sparse").expect("a file");
        for at in [5000, 500 << 20, (1 << 30) - 10] {
            let mut bytes = [0; 10];
            found.seek_to(at).expect("sought");
            found.read_bytes(&mut bytes).expect("read");
            assert_eq!(&bytes, b"something!");
        }
    }
    assert!(disk.metadata().expect("metadata").blocks() * 512 < 2 << 20);
}

#[test]
fn archives_of_gnu_tar_in_every_format() {
    let dir = tempfile::tempdir().expect("a directory");
    let (files, disk) = (dir.path().join("files"), dir.path().join("disk"));
    std::fs::create_dir_all(files.join("some/where")).expect("made");
    for (n, len) in [0, 1, 511, 512, 513, 100_000].into_iter().enumerate() {
        std::fs::write(files.join(format!("some/{n}")), vec![n as u8 + 1; len]).expect("written");
    }
    std::fs::hard_link(files.join("some/5"), files.join("some/where/link")).expect("linked");
    std::os::unix::fs::symlink("../5", files.join("some/where/symlink")).expect("linked");
    for format in ["v7", "ustar", "oldgnu", "gnu", "posix"] {
        if format == "gnu" {
            // Names beyond what the older ones can say.
            std::fs::create_dir(files.join("x".repeat(200))).expect("made");
            std::fs::write(files.join("x".repeat(200)).join("y".repeat(250)), b"deep").expect("written");
        }
        let tar = Command::new("tar")
            .args(["-cf", "-", "-H", format, "-C"])
            .arg(&files)
            .arg(".")
            .output();
        let mut tree = tree();
        tree.add_tar(&mut &tar.expect("tar runs").stdout[..])
            .expect("added");
        checked(&tree, &Options::new(32 << 20), &disk);
        compare(&tree, &disk);
        let mut ahead = vec![PathBuf::new()];
        while let Some(path) = ahead.pop() {
            let (name, real) = (path.to_str().expect("text"), files.join(&path));
            let metadata = real.symlink_metadata().expect("metadata");
            let node = match metadata.is_symlink() {
                true => continue,
                false => tree.get(name).expect("found").expect("there"),
            };
            assert_eq!(u32::from(node.metadata.mode), metadata.mode() & 0o7777);
            assert_eq!(
                (node.metadata.uid, node.metadata.gid),
                (metadata.uid(), metadata.gid())
            );
            assert_eq!(node.metadata.mtime.seconds, metadata.mtime());
            if metadata.is_dir() {
                let inside = real.read_dir().expect("a directory");
                ahead.extend(inside.map(|e| path.join(e.expect("an entry").file_name())));
            } else {
                let wanted = std::fs::read(&real).expect("read");
                assert_eq!(
                    tree.read(name, u64::MAX).expect("read"),
                    Some(wanted),
                    "{format}: {name}"
                );
            }
        }
        assert!(matches!(
            tree.get("some/where/symlink")
                .expect("found")
                .expect("there")
                .kind(),
            Kind::File(_)
        ));
    }
}

#[test]
fn the_same_tree_gives_the_same_bytes_and_grows() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut tree = tree();
    put(&mut tree, "etc/hostname", &b"web\n"[..]);
    put(&mut tree, "large", std::io::repeat(9).take(9 << 20));
    let paths = [dir.path().join("1"), dir.path().join("2")];
    for path in &paths {
        checked(&tree, &Options::new(48 << 20), path);
    }
    let bytes = std::fs::read(&paths[0]).expect("read");
    assert!(bytes == std::fs::read(&paths[1]).expect("read"));
    // What a guest's resize2fs relies on: the blocks that are reserved for descriptors.
    let file = File::options().write(true).open(&paths[0]).expect("a disk");
    for size in [300 << 20, 20 << 30] {
        file.set_len(size).expect("grown");
        let grown = Command::new("/sbin/resize2fs")
            .arg(&paths[0])
            .output()
            .expect("resize2fs runs");
        assert!(
            grown.status.success(),
            "{}",
            String::from_utf8_lossy(&grown.stderr)
        );
        e2fsck(&paths[0]);
    }
    compare(&tree, &paths[0]);
    // e2fsck notices what is wrong: the checksum of the first block of inodes.
    let file = File::options()
        .read(true)
        .write(true)
        .open(&paths[1])
        .expect("a disk");
    let inodes = debugfs(&paths[1], "imap <2>");
    let block = inodes
        .split("located at block ")
        .nth(1)
        .and_then(|t| t.split(',').next()?.parse().ok());
    file.write_all_at(b"x", block.unwrap_or(0u64) * 4096 + 256 + 20)
        .expect("written");
    let out = Command::new("/sbin/e2fsck")
        .arg("-fn")
        .arg(&paths[1])
        .output()
        .expect("e2fsck runs");
    assert!(!out.status.success());
}

/// What a random tree is made of.
#[derive(Clone, Debug)]
enum Step {
    File(Vec<(u32, u8)>),
    Directory(u16),
    Symlink(String),
    Link(Vec<u8>),
    Xattr(usize),
}

fn steps() -> impl Strategy<Value = Vec<(Vec<u8>, Step)>> {
    let path = proptest::collection::vec(0u8..6, 1..5);
    let step = prop_oneof![
        proptest::collection::vec((1u32..300_000, any::<u8>()), 0..4).prop_map(Step::File),
        (0u16..0o10000).prop_map(Step::Directory),
        "[a-z/.]{1,200}".prop_map(Step::Symlink),
        proptest::collection::vec(0u8..6, 1..5).prop_map(Step::Link),
        (0usize..3900).prop_map(Step::Xattr),
    ];
    proptest::collection::vec((path, step), 0..60)
}

fn path_of(names: &[u8]) -> String {
    names
        .iter()
        .map(|n| {
            format!(
                "/{}",
                char::from(b'a' + n).to_string().repeat(1 + usize::from(*n) * 40)
            )
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_trees_are_clean_and_complete(steps in steps()) {
        let mut tree = tree();
        for (names, step) in steps {
            let path = path_of(&names);
            // Paths through files and links to nothing are refused, and change nothing.
            let _ = match step {
                Step::File(runs) => {
                    let bytes: Vec<u8> = runs.iter().flat_map(|(n, b)| std::iter::repeat_n(*b / 2, *n as usize)).collect();
                    let content = tree.store(&mut &bytes[..]).expect("stored");
                    tree.insert(path, Kind::File(content), Metadata::new(0o600))
                }
                Step::Directory(mode) => tree.insert(path, Kind::directory(), Metadata::new(mode)),
                Step::Symlink(target) => {
                    tree.insert(path, Kind::Symlink(target.into_bytes().into()), Metadata::new(0o777))
                }
                Step::Link(target) => tree.link(path, path_of(&target)),
                Step::Xattr(len) => {
                    let mut metadata = Metadata::new(0o644);
                    metadata.xattrs.insert(b"user.name"[..].into(), vec![1; len].into());
                    metadata.xattrs.insert(b"trusted.b"[..].into(), vec![2; len / 40].into());
                    tree.insert(path, Kind::Fifo, metadata)
                }
            };
        }
        let disk = tempfile::NamedTempFile::new().expect("a disk");
        let size = required_size(&tree).expect("a size");
        checked(&tree, &Options::new(size), disk.path());
        compare(&tree, disk.path());
    }
}
