//! Copying in and out, through an agent and past a hostile one.

mod common;

use common::Guest;
use donjon_agent::session::Defaults;
use donjon_agent_client::{Client, ClientError, CopyOptions};
use donjon_agent_protocol::copy::{CopyError, Kind, Report};
use donjon_agent_protocol::frame::{FrameReader, FrameWriter};
use donjon_agent_protocol::{ErrorKind, Reply, Request, hello};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

const NO: CopyOptions = CopyOptions {
    follow: false,
    preserve: false,
};

fn same(a: &Path, b: &Path) {
    let output = std::process::Command::new("diff")
        .args(["--recursive", "--no-dereference"])
        .args([a, b])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn there_and_back() {
    let root = tempfile::tempdir().unwrap();
    let guest = Guest::at(root.path(), Defaults::default());
    let host = tempfile::tempdir().unwrap();
    let at = |p: &str| host.path().join(p);
    fs::create_dir_all(at("tree/a/b")).unwrap();
    for n in 0..300u32 {
        fs::write(
            at(&format!("tree/a/{n}")),
            n.to_le_bytes().repeat(n as usize * 20),
        )
        .unwrap();
    }
    symlink("/nowhere", at("tree/a/b/link")).unwrap();
    let report = guest.client.copy_in(&at("tree"), "/", NO).unwrap();
    assert_eq!((report.files, report.directories, report.symlinks), (300, 3, 1));
    same(&at("tree"), &root.path().join("tree"));
    let back = guest.client.copy_out("/tree", &at("back"), NO).unwrap();
    assert_eq!(back, report);
    same(&at("tree"), &at("back"));
    // A file, and what a link leads to.
    fs::write(at("file"), "text").unwrap();
    guest.client.copy_in(&at("file"), "/renamed", NO).unwrap();
    symlink("renamed", root.path().join("link")).unwrap();
    let follow = CopyOptions { follow: true, ..NO };
    guest.client.copy_out("/link", &at("followed"), follow).unwrap();
    assert_eq!(fs::read_to_string(at("followed")).unwrap(), "text");
    guest.client.copy_out("/link", &at("link"), NO).unwrap();
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("renamed"));
}

fn refusal(result: Result<Report, ClientError>) -> (ErrorKind, String) {
    match result {
        Err(ClientError::Refused(e)) => (e.kind, e.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_does_not_work_is_told() {
    let root = tempfile::tempdir().unwrap();
    let guest = Guest::at(root.path(), Defaults::default());
    let host = tempfile::tempdir().unwrap();
    let at = |p: &str| host.path().join(p);
    fs::write(at("file"), "").unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    fs::create_dir(at("dir")).unwrap();
    assert!(matches!(
        guest.client.copy_in(&at("missing"), "/", NO),
        Err(ClientError::Copy(CopyError::File { .. }))
    ));
    assert_eq!(
        refusal(guest.client.copy_in(&at("file"), "/no/where", NO)).0,
        ErrorKind::NotFound
    );
    assert_eq!(
        refusal(guest.client.copy_in(&at("file"), "/nowhere/", NO)).0,
        ErrorKind::NotFound
    );
    assert_eq!(
        refusal(guest.client.copy_in(&at("file"), "relative", NO)).0,
        ErrorKind::Invalid
    );
    assert_eq!(
        refusal(guest.client.copy_in(&at("dir"), "/file", NO)).0,
        ErrorKind::Invalid
    );
    let (kind, message) = refusal(guest.client.copy_out("/missing", &at("x"), NO));
    assert!(kind == ErrorKind::NotFound && message.contains("missing"));
    assert!(matches!(
        guest.client.copy_out("/file", &at("nowhere/"), NO),
        Err(ClientError::Copy(CopyError::NoDirectory(_)))
    ));
}

#[test]
fn an_error_in_the_middle_ends_the_copy() {
    let root = tempfile::tempdir().unwrap();
    let guest = Guest::at(root.path(), Defaults::default());
    let host = tempfile::tempdir().unwrap();
    // In the guest there is a directory where a file is to be.
    fs::create_dir_all(root.path().join("tree/a/x")).unwrap();
    fs::create_dir_all(host.path().join("tree/a")).unwrap();
    fs::write(host.path().join("tree/a/x"), "").unwrap();
    fs::create_dir_all(host.path().join("tree/.later")).unwrap();
    fs::write(host.path().join("tree/.later/big"), vec![1; 30 << 20]).unwrap();
    let (kind, message) = refusal(guest.client.copy_in(&host.path().join("tree"), "/", NO));
    assert!(kind == ErrorKind::Failed && message.contains("a/x"), "{message}");
    guest.client.ping().unwrap();
}

/// A guest that answers one request for a copy with what it likes.
fn hostile(
    directory: &Path,
    kind: Kind,
    answer: impl Fn(&mut FrameWriter<&std::os::unix::net::UnixStream>) + Send + 'static,
) -> Client {
    let path = directory.join("vsock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut line = [0; 13];
        (&stream).read_exact(&mut line).unwrap();
        (&stream).write_all(b"OK 1030\n").unwrap();
        let (mut reader, mut writer) = (FrameReader::new(&stream), FrameWriter::new(&stream));
        hello::answer(&mut reader, &mut writer).unwrap();
        assert!(matches!(reader.next().unwrap(), Some(Request::CopyOut { .. })));
        writer.send(&Reply::Source(kind)).unwrap();
        answer(&mut writer);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // Until the host has had enough.
        let _ = (&stream).read(&mut [0]);
    });
    Client::new(path)
}

/// One entry, with a name that no honest archiver writes.
fn entry(kind: u8, name: &[u8], link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name);
    header[100..107].copy_from_slice(b"0000777");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].fill(b' ');
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link);
    header[257..265].copy_from_slice(b"ustar  \0");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut whole = header.to_vec();
    whole.extend(content);
    whole.resize(whole.len().next_multiple_of(512), 0);
    whole
}

#[test]
fn a_hostile_guest_writes_nowhere_else() {
    let attempts = [
        entry(b'0', b"../evil", b"", b"x"),
        entry(b'0', b"/tmp/donjon-evil", b"", b"x"),
        [
            entry(b'2', b"out", b"..", b""),
            entry(b'0', b"out/evil", b"", b"x"),
        ]
        .concat(),
        [
            entry(b'2', b"out", b"/tmp", b""),
            entry(b'0', b"out/donjon-evil", b"", b"x"),
        ]
        .concat(),
        entry(b'1', b"hard", b"../victim", b""),
    ];
    for attempt in attempts {
        for kind in [Kind::Directory, Kind::File, Kind::Symlink] {
            let place = tempfile::tempdir().unwrap();
            fs::write(place.path().join("victim"), "victim").unwrap();
            let sent = attempt.clone();
            let client = hostile(place.path(), kind, move |writer| {
                let _ = writer.send(&Reply::Data(&sent));
                let _ = writer.send(&Reply::Copied(Report::default()));
            });
            let result = client.copy_out("/etc/thing", &place.path().join("to"), NO);
            let mut names: Vec<_> = fs::read_dir(place.path())
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.retain(|n| n != "vsock" && n != "to");
            assert_eq!(names, ["victim"]);
            assert!(!Path::new("/tmp/donjon-evil").exists());
            // One file gets the name that the host chose.
            let named = kind != Kind::Directory && attempt[156] == b'0';
            assert!(result.is_err() || named, "{result:?}");
        }
    }
}

#[test]
fn a_guest_that_breaks_off_is_told() {
    let place = tempfile::tempdir().unwrap();
    let client = hostile(place.path(), Kind::File, |writer| {
        let _ = writer.send(&Reply::Data(&entry(b'0', b"x", b"", &[7; 5000])[..2000]));
    });
    let result = client.copy_out("/etc/thing", &place.path().join("to"), NO);
    assert!(matches!(result, Err(ClientError::Gone)), "{result:?}");
    assert!(!place.path().join("to").exists());
    let place = tempfile::tempdir().unwrap();
    let client = hostile(place.path(), Kind::Directory, |writer| {
        let _ = writer.send(&Reply::Started(1));
    });
    let result = client.copy_out("/etc/thing", &place.path().join("to"), NO);
    assert!(matches!(result, Err(ClientError::Nonsense(_))), "{result:?}");
}
