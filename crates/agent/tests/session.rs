//! Requests, and what is none.

mod common;

use common::{Guest, eventually};
use donjon_agent::session::Defaults;
use donjon_agent_client::{Client, ClientError, ExitWatch};
use donjon_agent_protocol::exit::{Exit, Report};
use donjon_agent_protocol::frame::{FrameReader, FrameWriter, MAX_FRAME};
use donjon_agent_protocol::hello;
use donjon_agent_protocol::{EXIT_PORT, ErrorKind, FirstBoot, Reply, Request, Shutdown, User};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

type Ends = (FrameReader<UnixStream>, FrameWriter<UnixStream>);

fn greeted(guest: &Guest) -> Ends {
    let stream = guest.raw();
    let mut reader = FrameReader::new(stream.try_clone().unwrap());
    let mut writer = FrameWriter::new(stream);
    assert_eq!(hello::greet(&mut reader, &mut writer).unwrap(), 1);
    (reader, writer)
}

fn malformed(reader: &mut FrameReader<UnixStream>) {
    match reader.next::<Reply<'_>>().unwrap() {
        Some(Reply::Error(e)) => assert_eq!(e.kind, ErrorKind::Malformed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn simple_requests() {
    let guest = Guest::new();
    guest.client.ping().unwrap();
    guest.client.shutdown(Shutdown::PowerOff).unwrap();
    guest.client.shutdown(Shutdown::Reboot).unwrap();
    // Years back, and as far ahead as a clock goes.
    guest.client.set_time(Duration::new(1, 5)).unwrap();
    guest.client.set_time(Duration::new(u64::MAX, 0)).unwrap();
    guest.client.mount("tag", "/mnt", true).unwrap();
    let log = guest.log.lock().unwrap().clone();
    let time = format!("time {:?}", Duration::new(u64::MAX, 0));
    assert_eq!(
        log,
        [
            "PowerOff",
            "Reboot",
            "time 1.000000005s",
            &time,
            "mount tag /mnt true"
        ]
    );
    assert!(matches!(
        guest.client.mount("tag", "mnt", true),
        Err(ClientError::Refused(e)) if e.kind == ErrorKind::Invalid
    ));
}

#[test]
fn info() {
    let info = Guest::new().client.info().unwrap();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert!(info.interfaces.iter().any(|i| i.name == "lo"));
}

#[test]
fn a_session_takes_several_requests() {
    let guest = Guest::new();
    let (mut reader, mut writer) = greeted(&guest);
    for _ in 0..3 {
        writer.send(&Request::Ping).unwrap();
        assert_eq!(reader.next().unwrap(), Some(Reply::Done));
    }
}

#[test]
fn what_is_no_request_is_answered_with_an_error() {
    let guest = Guest::new();
    let (mut reader, mut writer) = greeted(&guest);
    // Unknown; of another time; a reply.
    writer.get_mut().write_all(&[2, 0, 0, 0, 200, 1]).unwrap();
    malformed(&mut reader);
    for request in [
        Request::Stdin(b"x"),
        Request::StdinEof,
        Request::Data(b"x"),
        Request::End,
        Request::Signal(9),
    ] {
        writer.send(&request).unwrap();
        malformed(&mut reader);
    }
    writer.send(&Request::Ping).unwrap();
    assert_eq!(reader.next().unwrap(), Some(Reply::Done));
    // After an impossible length nothing can be understood.
    writer
        .get_mut()
        .write_all(&(MAX_FRAME as u32 + 1).to_le_bytes())
        .unwrap();
    assert_eq!(reader.next::<Reply<'_>>().unwrap(), None);
}

#[test]
fn strangers_are_sent_away() {
    let guest = Guest::new();
    for words in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0; 100], &[255; 100]] {
        let mut stream = guest.raw();
        stream.write_all(words).unwrap();
        let mut answer = vec![];
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"");
    }
    guest.client.ping().unwrap();
}

#[test]
fn a_program_is_not_given_more_than_there_is_credit_for() {
    let guest = Guest::new();
    let (mut reader, mut writer) = greeted(&guest);
    let exec = donjon_agent_protocol::Exec {
        stdin: true,
        ..common::command(&["sleep", "1000"])
    };
    writer.send(&Request::Exec(exec)).unwrap();
    let Some(Reply::Started(pid)) = reader.next().unwrap() else {
        panic!("it does not start");
    };
    // The agent ends the session of a host that does not keep to the rules, and the program.
    while writer.send(&Request::Stdin(&[0; 60_000])).is_ok() {}
    eventually("it ends", || {
        !std::path::Path::new(&format!("/proc/{pid}/stat")).exists()
    });
}

#[test]
fn freezing() {
    let guest = Guest::new();
    let log = || guest.log.lock().unwrap().clone();
    let frozen = guest.client.freeze(Duration::from_secs(60)).unwrap();
    assert!(matches!(
        guest.client.freeze(Duration::from_secs(60)),
        Err(ClientError::Refused(e)) if e.kind == ErrorKind::Busy
    ));
    frozen.thaw().unwrap();
    assert_eq!(log(), ["freeze", "thaw"]);
    // A host that is gone.
    drop(guest.client.freeze(Duration::from_secs(60)).unwrap());
    eventually("it thaws", || log().len() == 4);
    // One that takes too long is told so.
    let frozen = guest.client.freeze(Duration::from_millis(1)).unwrap();
    eventually("it thaws", || log().len() == 6);
    assert!(frozen.thaw().is_err());
    // Nothing is left of it.
    guest
        .client
        .freeze(Duration::from_secs(60))
        .unwrap()
        .thaw()
        .unwrap();
    let (mut reader, mut writer) = greeted(&guest);
    writer.send(&Request::Thaw).unwrap();
    assert!(matches!(reader.next().unwrap(), Some(Reply::Error(e)) if e.kind == ErrorKind::Invalid));
}

#[test]
fn a_guest_without_an_agent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock");
    let client = Client::new(&path).with_patience(Duration::from_millis(200));
    let error = client.ping().unwrap_err();
    assert!(matches!(error, ClientError::NoDomain(_)), "{error}");
    // The device is there and the guest refuses; or does not answer; or something else answers.
    let listener = UnixListener::bind(&path).unwrap();
    let (answers, next) = std::sync::mpsc::channel::<&[u8]>();
    std::thread::spawn(move || {
        let mut kept = vec![];
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let answer = next.recv().unwrap();
            if answer.is_empty() {
                kept.push(stream);
            } else {
                stream.write_all(answer).unwrap();
                let _ = stream.shutdown(std::net::Shutdown::Write);
                kept.push(stream);
            }
        }
    });
    answers.send(b"").unwrap();
    let start = Instant::now();
    let error = client.ping().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has no agent (or it has not started yet)"),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(20));
    for (answer, expected) in [
        (&b"nothing\n"[..], "has no agent"),
        (b"OK 1", "has no agent"),
        (b"OK 1030\n", "has ended"),
        (b"OK 1030\nHTTP/1.0 400 Bad Request", "does not say hello"),
        (b"OK 1030\n\x06\0\0\0djag\x09\x0a", "versions 9 to 10"),
        // What it says reaches no terminal as a command.
        (
            b"OK 1030\n\x06\0\0\0djag\x01\x01\x09\0\0\0\x01\x05\x06\x1b[2Jno",
            "[2Jno",
        ),
    ] {
        answers.send(answer).unwrap();
        let error = client.ping().unwrap_err().to_string();
        assert!(
            error.contains(expected) && !error.contains('\x1b'),
            "{expected}: {error}"
        );
    }
}

#[test]
fn waiting_for_an_agent() {
    let directory = tempfile::tempdir().unwrap();
    let client = Client::new(directory.path().join("vsock"));
    let start = Instant::now();
    assert!(client.wait_ready(Duration::from_millis(200)).is_err());
    assert!(start.elapsed() >= Duration::from_millis(200));
    Guest::new().client.wait_ready(Duration::from_secs(60)).unwrap();
}

#[test]
fn exit_reports() {
    let directory = tempfile::tempdir().unwrap();
    let vsock = directory.path().join("vsock");
    let watch = ExitWatch::new(&vsock).unwrap();
    assert_eq!(watch.wait(Duration::from_millis(1)).unwrap(), None);
    let path = directory.path().join(format!("vsock_{EXIT_PORT}"));
    // Another program of the guest.
    UnixStream::connect(&path)
        .unwrap()
        .write_all(b"\x01\0\0\0\xff")
        .unwrap();
    let report = Report::Exited(Exit::Code(3));
    FrameWriter::new(UnixStream::connect(&path).unwrap())
        .send(&report)
        .unwrap();
    assert_eq!(watch.wait(Duration::from_secs(60)).unwrap(), Some(report));
    // One that a killed process left.
    std::mem::forget(watch);
    drop(ExitWatch::new(&vsock).unwrap());
    assert!(!path.exists());
}

#[test]
fn first_boot() {
    let root = tempfile::tempdir().unwrap();
    let at = |p: &str| root.path().join(p);
    let read = |p: &str| std::fs::read_to_string(at(p)).unwrap();
    std::fs::create_dir_all(at("etc/skel")).unwrap();
    std::fs::write(at("etc/skel/.profile"), "x").unwrap();
    std::fs::write(at("etc/passwd"), "root:x:0:0::/root:/bin/sh\nold:x:1000:1000::/:").unwrap();
    std::fs::write(
        at("etc/hosts"),
        "127.0.0.1 localhost\n127.0.1.1 old\n::1 localhost\n",
    )
    .unwrap();
    let guest = Guest::at(root.path(), Defaults::default());
    let user = User {
        name: "ann".into(),
        ssh_keys: vec!["ssh-ed25519 AAAA ann@host".into()],
        shell: None,
        sudo: true,
    };
    let what = FirstBoot {
        hostname: Some("web.example".into()),
        user: Some(user.clone()),
        timezone: Some("Europe/Berlin".into()),
    };
    if !rustix::process::geteuid().is_root() {
        // A home for somebody else is not for everybody to make.
        assert!(guest.client.first_boot(&what).is_err());
        return;
    }
    // Once more changes nothing.
    for _ in 0..2 {
        guest.client.first_boot(&what).unwrap();
        assert_eq!(read("etc/hostname"), "web.example\n");
        assert_eq!(
            read("etc/hosts"),
            "127.0.0.1 localhost\n127.0.1.1\tweb.example web\n::1 localhost\n"
        );
        assert!(read("etc/passwd").ends_with("::/:\nann:x:1001:1001::/home/ann:/bin/sh\n"));
        assert_eq!(read("etc/group"), "ann:x:1001:\n");
        assert!(read("etc/shadow").starts_with("ann:*:"));
        assert_eq!(
            read("home/ann/.ssh/authorized_keys"),
            "ssh-ed25519 AAAA ann@host\n"
        );
        assert_eq!(read("etc/timezone"), "Europe/Berlin\n");
    }
    let mode = |p: &str| {
        use std::os::unix::fs::MetadataExt;
        let m = std::fs::symlink_metadata(at(p)).unwrap();
        (m.mode() & 0o7777, m.uid())
    };
    assert_eq!(mode("home/ann/.ssh"), (0o700, 1001));
    assert_eq!(mode("home/ann/.ssh/authorized_keys"), (0o600, 1001));
    assert_eq!(mode("home/ann/.profile").1, 1001);
    assert_eq!(mode("etc/sudoers.d/90-donjon-ann"), (0o440, 0));
    assert_eq!(mode("etc/shadow"), (0o640, 0));
    assert_eq!(
        std::fs::read_link(at("etc/localtime")).unwrap(),
        std::path::Path::new("/usr/share/zoneinfo/Europe/Berlin")
    );

    let before = read("etc/passwd");
    let with = |f: fn(&mut FirstBoot)| {
        let mut what = what.clone();
        f(&mut what);
        what
    };
    for bad in [
        with(|w| w.hostname = Some("a b".into())),
        with(|w| w.hostname = Some("-a".into())),
        with(|w| w.hostname = Some(String::new())),
        with(|w| w.hostname = Some("a\nb".into())),
        with(|w| w.timezone = Some("../../etc/shadow".into())),
        with(|w| w.timezone = Some("/etc".into())),
        with(|w| w.user.as_mut().unwrap().name = "a:b".into()),
        with(|w| w.user.as_mut().unwrap().name = "../x".into()),
        with(|w| w.user.as_mut().unwrap().name = String::new()),
        with(|w| w.user.as_mut().unwrap().shell = Some("/bin/sh\nroot2:x:0:0".into())),
        with(|w| w.user.as_mut().unwrap().ssh_keys = vec!["a\nb".into()]),
    ] {
        assert!(
            matches!(
                guest.client.first_boot(&bad),
                Err(ClientError::Refused(e)) if e.kind == ErrorKind::Invalid
            ),
            "{bad:?}"
        );
    }
    assert_eq!(read("etc/passwd"), before);
    // A user who links ~/.ssh elsewhere gets nothing written there.
    std::fs::remove_dir_all(at("home/ann/.ssh")).unwrap();
    std::os::unix::fs::symlink(root.path(), at("home/ann/.ssh")).unwrap();
    assert!(guest.client.first_boot(&what).is_err());
    assert!(!at("authorized_keys").exists());
}
