//! The two sides against each other, and against GNU tar.

mod hostile;

use super::*;
use crate::copy::{Incoming, Outgoing};
use proptest::prelude::*;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use tempfile::{TempDir, tempdir};

fn sent(path: &Path) -> Vec<u8> {
    let mut out = vec![];
    send(path, kind(path, false).unwrap(), &mut out).unwrap();
    out
}

/// Copies by way of a stream, as host and guest do together.
fn copied(from: &Path, to: &Path) -> Result<Report, CopyError> {
    let source = Source::named(from, kind(from, false)?);
    receive(&target(to, &source)?, Cursor::new(sent(from)), Options::default())
}

fn tree() -> TempDir {
    let directory = tempdir().unwrap();
    let at = |p: &str| directory.path().join(p);
    fs::create_dir_all(at("src/a/b/c")).unwrap();
    fs::create_dir(at("src/empty")).unwrap();
    fs::write(at("src/file"), "content").unwrap();
    fs::write(at("src/a/none"), "").unwrap();
    fs::write(at("src/a/b/c/deep"), vec![7; 100_000]).unwrap();
    // Longer than a header has room for, and no text.
    let long = at("src").join("n".repeat(200));
    fs::create_dir(&long).unwrap();
    let strange = std::ffi::OsStr::from_bytes(b"\xff\xfe \n");
    fs::write(long.join(strange), "strange").unwrap();
    symlink("a/b", at("src/link")).unwrap();
    symlink("/etc/passwd", at("src/absolute")).unwrap();
    symlink("x".repeat(300), at("src/dangling")).unwrap();
    fs::set_permissions(at("src/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(at("src/a/b"), fs::Permissions::from_mode(0o555)).unwrap();
    for (path, time) in [("src/file", 1_000_000), ("src/a", 2_000_000)] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(time);
        fs::File::open(at(path)).unwrap().set_modified(time).unwrap();
    }
    directory
}

/// What diff(1) finds.
fn differences(a: &Path, b: &Path) -> String {
    let output = Command::new("diff")
        .args(["--recursive", "--no-dereference"])
        .args([a, b])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_tree_arrives_whole() {
    let from = tree();
    let to = tempdir().unwrap();
    let report = copied(&from.path().join("src"), &to.path().join("new")).unwrap();
    assert_eq!(differences(&from.path().join("src"), &to.path().join("new")), "");
    assert_eq!((report.files, report.directories, report.symlinks), (4, 6, 3));
    assert_eq!((report.bytes, report.skipped), (100_014, 0));
    let of = |p: &str| fs::symlink_metadata(to.path().join("new").join(p)).unwrap();
    // Without the right to be somebody else.
    assert_eq!(of("file").mode() & 0o7777, 0o751);
    assert_eq!(of("a/b").mode() & 0o7777, 0o555);
    assert_eq!((of("file").mtime(), of("a").mtime()), (1_000_000, 2_000_000));
    // Once more, over what is there.
    copied(&from.path().join("src/."), &to.path().join("new")).unwrap();
    assert_eq!(differences(&from.path().join("src"), &to.path().join("new")), "");
}

#[test]
fn owners_and_rights_can_be_kept() {
    let from = tree();
    let to = tempdir().unwrap();
    let file = from.path().join("src/file");
    let root = rustix::process::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(&file, Some(1234), Some(2345)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    }
    let target = Target::File(to.path().join("file"));
    let keep = Options { preserve: true };
    receive(&target, Cursor::new(sent(&file)), keep).unwrap();
    let (old, new) = (
        fs::metadata(&file).unwrap(),
        fs::metadata(to.path().join("file")).unwrap(),
    );
    assert_eq!(
        (old.uid(), old.gid(), old.mode()),
        (new.uid(), new.gid(), new.mode())
    );
    assert_eq!(new.uid() == 1234, root);
    assert_eq!(new.mode() & 0o7777, 0o4751);
}

#[test]
fn gnu_tar_understands_what_is_sent() {
    let from = tree();
    let to = tempdir().unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--file=-", "--directory"]).arg(to.path());
    let mut tar = tar.stdin(Stdio::piped()).spawn().unwrap();
    tar.stdin
        .take()
        .unwrap()
        .write_all(&sent(&from.path().join("src")))
        .unwrap();
    assert!(tar.wait().unwrap().success());
    assert_eq!(differences(&from.path().join("src"), to.path()), "");
}

#[test]
fn what_gnu_tar_sends_is_understood() {
    let from = tree();
    fs::hard_link(from.path().join("src/file"), from.path().join("src/hard")).unwrap();
    for format in ["gnu", "pax", "posix"] {
        let to = tempdir().unwrap();
        let output = Command::new("tar")
            .args([
                "--create",
                "--file=-",
                &format!("--format={format}"),
                "--directory",
            ])
            .arg(from.path().join("src"))
            .arg(".")
            .output()
            .unwrap();
        assert!(output.status.success());
        let target = Target::Directory(to.path().join("new"));
        receive(&target, &output.stdout[..], Options::default()).unwrap();
        assert_eq!(
            differences(&from.path().join("src"), &to.path().join("new")),
            "",
            "{format}"
        );
        let inode = |p: &str| fs::metadata(to.path().join("new").join(p)).unwrap().ino();
        assert_eq!(inode("file"), inode("hard"));
    }
}

#[test]
fn destinations_are_those_of_docker_cp() {
    let place = tempdir().unwrap();
    let at = |p: &str| place.path().join(p);
    fs::write(at("file"), "new").unwrap();
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("dir/inside"), "").unwrap();
    // A file: to a new name, over a file, into a directory, through a link to a file.
    copied(&at("file"), &at("copy")).unwrap();
    fs::write(at("old"), "old").unwrap();
    symlink("old", at("to-old")).unwrap();
    copied(&at("file"), &at("to-old")).unwrap();
    assert!(fs::symlink_metadata(at("to-old")).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(at("old")).unwrap(), "new");
    fs::create_dir(at("into")).unwrap();
    copied(&at("file"), &at("into")).unwrap();
    assert!(at("copy").is_file() && at("into/file").is_file());
    assert!(matches!(
        copied(&at("file"), &at("missing/")),
        Err(CopyError::NoDirectory(_))
    ));
    assert!(matches!(
        copied(&at("file"), &at("old/")),
        Err(CopyError::NotDirectory(_))
    ));
    assert!(copied(&at("file"), &at("missing/x")).is_err());
    // A directory: to a new name, into a directory, its contents into one, not over a file.
    copied(&at("dir"), &at("fresh")).unwrap();
    copied(&at("dir"), &at("into")).unwrap();
    fs::create_dir(at("flat")).unwrap();
    copied(&at("dir/."), &at("flat")).unwrap();
    assert!(at("fresh/inside").is_file() && at("into/dir/inside").is_file() && at("flat/inside").is_file());
    assert!(matches!(
        copied(&at("dir"), &at("file")),
        Err(CopyError::NotDirectory(_))
    ));
    assert!(copied(&at("dir"), &at("missing/x")).is_err());
    // A link is copied as one.
    copied(&at("to-old"), &at("into")).unwrap();
    assert_eq!(fs::read_link(at("into/to-old")).unwrap(), Path::new("old"));
}

#[test]
fn names_of_sources() {
    let named = |path: &str| {
        let source = Source::named(Path::new(path), Kind::Directory);
        (source.name, source.contents)
    };
    assert_eq!(named("/a/b"), ("b".into(), false));
    assert_eq!(named("/a/b/"), ("b".into(), false));
    assert!(named("/a/b/.").1);
    for path in [".", "..", "/", "a/.."] {
        assert!(named(path).1, "{path}");
    }
    let place = tempdir().unwrap();
    for name in ["", ".", "..", "/", "a/b", "../a", "a\0b", "a/"] {
        let source = Source {
            kind: Kind::File,
            name: name.into(),
            contents: false,
        };
        assert!(
            matches!(target(place.path(), &source), Err(CopyError::Name(_))),
            "{name:?}"
        );
    }
}

#[test]
fn zeroes_become_holes() {
    let place = tempdir().unwrap();
    let from = place.path().join("from");
    let file = fs::File::create(&from).unwrap();
    file.set_len(40 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 20 << 20).unwrap();
    copied(&from, &place.path().join("to")).unwrap();
    let metadata = fs::metadata(place.path().join("to")).unwrap();
    assert_eq!(metadata.len(), 40 << 20);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    assert_eq!(differences(&from, &place.path().join("to")), "");
}

#[test]
fn what_is_no_file_is_left_out_and_told() {
    let place = tempdir().unwrap();
    let from = place.path().join("from");
    fs::create_dir(&from).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        from.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let mut out = vec![];
    let report = send(&from, Kind::Directory, &mut out).unwrap();
    assert_eq!((report.skipped, report.examples.len()), (2, 2));
    assert!(matches!(
        kind(&from.join("fifo"), false),
        Err(CopyError::Unsupported(..))
    ));
    assert!(copied(&from, &place.path().join("to")).is_ok());
}

#[test]
fn a_copy_that_breaks_off_leaves_what_was_there() {
    let place = tempdir().unwrap();
    let at = |p: &str| place.path().join(p);
    fs::write(at("new"), vec![1; 100_000]).unwrap();
    fs::write(at("old"), "old").unwrap();
    let whole = sent(&at("new"));
    for cut in [513, 50_000, 100_000] {
        let result = receive(&Target::File(at("old")), &whole[..cut], Options::default());
        assert!(matches!(result, Err(CopyError::Stream(_))), "{cut}: {result:?}");
        assert_eq!(fs::read_to_string(at("old")).unwrap(), "old");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    // Nothing at all is no file.
    for nothing in [&b""[..], &[0; 1024]] {
        let result = receive(&Target::File(at("old")), nothing, Options::default());
        assert!(matches!(result, Err(CopyError::NotOneFile(_))), "{result:?}");
    }
}

#[test]
fn pieces_are_put_together() {
    let mut pieces = vec![];
    let mut out = Outgoing::new(|piece: &[u8]| {
        pieces.push(piece.to_vec());
        Ok(())
    });
    for n in 0..100u8 {
        out.write_all(&[n; 1999]).unwrap();
    }
    out.flush().unwrap();
    drop(out);
    assert!(pieces.iter().all(|p| p.len() <= crate::frame::MAX_DATA) && pieces.len() == 4);
    let mut pieces = pieces.into_iter();
    let mut whole = vec![];
    let mut input = Incoming::new(|piece| match pieces.next() {
        Some(next) => {
            piece.extend(next);
            Ok(true)
        }
        None => Ok(false),
    });
    input.read_to_end(&mut whole).unwrap();
    assert!(input.ended());
    assert_eq!(whole, (0..100u8).flat_map(|n| [n; 1999]).collect::<Vec<_>>());
}
