//! Any bytes where the host and a guest's agent meet: each side on what the other says, and archives between them.
//! They are understood or refused, in bounded time and memory, and nothing is written beside the target.
#![no_main]

use donjon_agent::session::Defaults;
use donjon_agent::{Agent, Frozen, System};
use donjon_agent_client::{Client, CopyOptions, Event};
use donjon_agent_protocol::boot::BootConfig;
use donjon_agent_protocol::copy::{Options, Target, receive};
use donjon_agent_protocol::exit::Report;
use donjon_agent_protocol::frame::{FrameError, FrameReader, FrameWriter, MAX_FRAME};
use donjon_agent_protocol::hello::{Hello, answer, greet};
use donjon_agent_protocol::{Error, ErrorKind, Exec, FirstBoot, Reply, Request, Shutdown};
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

fuzz_target!(init: {
    // As the start of every Rust program does, which this one does not have.
    let noticed = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGPIPE, noticed).expect("a handler");
}, |bytes: &[u8]| {
    let Some((&what, rest)) = bytes.split_first() else {
        return;
    };
    match what % 4 {
        0 => messages(rest),
        1 => archive(rest, what),
        2 => agent(rest),
        _ => client(rest, what),
    }
});

/// A directory, and beside it what must not change.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(place.path().join("inside")).expect("made");
        std::fs::write(place.path().join("beside"), "x").expect("written");
        Self(place)
    }

    fn inside(&self) -> PathBuf {
        self.0.path().join("inside")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let names = std::fs::read_dir(self.0.path()).expect("it is there").count();
        let beside = std::fs::read(self.0.path().join("beside")).expect("it is there");
        assert!(names == 2 && beside == b"x", "something was written outside");
    }
}

/// What is understood can be said again and means the same.
fn messages(bytes: &[u8]) {
    fn again<M: Serialize + for<'a> Deserialize<'a> + PartialEq>(bytes: &[u8]) {
        let mut reader = FrameReader::new(bytes);
        while let Ok(Some(message)) = reader.next::<M>() {
            repeat(&message);
        }
    }
    fn repeat<M: Serialize + for<'a> Deserialize<'a> + PartialEq>(message: &M) {
        let mut out = vec![];
        FrameWriter::new(&mut out)
            .send(message)
            .expect("it is not longer than it was");
        let mut reader = FrameReader::new(&out[..]);
        assert!(reader.next::<M>().is_ok_and(|m| m.as_ref() == Some(message)));
    }
    again::<Hello>(bytes);
    again::<Report>(bytes);
    again::<Error>(bytes);
    again::<Exec>(bytes);
    let mut reader = FrameReader::new(bytes);
    while !matches!(
        reader.next::<Request<'_>>(),
        Ok(None) | Err(FrameError::Io(_) | FrameError::Length(_))
    ) {}
    let mut reader = FrameReader::new(bytes);
    while !matches!(
        reader.next::<Reply<'_>>(),
        Ok(None) | Err(FrameError::Io(_) | FrameError::Length(_))
    ) {}
    if let Ok(config) = BootConfig::parse(bytes) {
        assert_eq!(BootConfig::parse(&config.to_json()).expect("it was one"), config);
    }
}

fn archive(bytes: &[u8], what: u8) {
    let place = Place::new();
    let target = if what & 4 == 0 {
        Target::Directory(place.inside())
    } else {
        Target::File(place.inside().join("file"))
    };
    // The texts must hold for whatever the archive says. What belongs to others cannot be removed here.
    let _ = receive(&target, bytes, Options { preserve: false }).map_err(|e| e.to_string());
}

/// A machine of which only a directory is real.
struct Machine(PathBuf);
struct Nothing;

impl Frozen for Nothing {}

impl System for Machine {
    fn root(&self) -> &Path {
        &self.0
    }
    fn path(&self, path: &str) -> Result<PathBuf, Error> {
        if !path.starts_with('/') || path.contains("..") || path.contains('\0') {
            return Err(Error::new(ErrorKind::Invalid, "not here"));
        }
        Ok(self.0.join(&path[1..].trim_start_matches('/')))
    }
    fn shutdown(&self, _: Shutdown) -> Result<(), Error> {
        Ok(())
    }
    fn set_time(&self, _: Duration) -> Result<(), Error> {
        Ok(())
    }
    fn mount(&self, _: &str, _: &Path, _: bool) -> Result<(), Error> {
        Ok(())
    }
    fn freeze(&self) -> Result<Box<dyn Frozen>, Error> {
        Ok(Box::new(Nothing))
    }
    fn first_boot(&self, what: &FirstBoot) -> Result<(), Error> {
        donjon_agent::first_boot(&self.0, what)
    }
}

/// A host that says anything.
fn agent(bytes: &[u8]) {
    let place = Place::new();
    // Programs are not started: the helper is one that does nothing.
    let agent = Agent::new(Machine(place.inside()), "/bin/false".into(), Defaults::default());
    let (here, there) = UnixStream::pair().expect("sockets");
    let session = thread::spawn(move || drop(agent.session(there)));
    let mut reader = FrameReader::new(here.try_clone().expect("a copy"));
    let mut writer = FrameWriter::new(here);
    if greet(&mut reader, &mut writer).is_ok() && writer.get_mut().write_all(bytes).is_ok() {
        let _ = writer.get_ref().shutdown(std::net::Shutdown::Write);
        // Every answer is one.
        loop {
            match reader.next::<Reply<'_>>() {
                Ok(Some(_)) => {}
                Ok(None) | Err(FrameError::Io(_)) => break,
                Err(e) => panic!("the agent says what is no reply: {e}"),
            }
        }
    }
    drop((reader, writer));
    session.join().expect("the session does not panic");
}

/// What the next guest says.
static NEXT: Mutex<Vec<u8>> = Mutex::new(vec![]);
/// Where guests listen.
static GUEST: LazyLock<Client> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory").keep();
    let path = directory.join("vsock");
    let listener = UnixListener::bind(&path).expect("a socket");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut line = [0; 13];
            let _ = (&stream).read_exact(&mut line);
            let _ = (&stream).write_all(b"OK 1030\n");
            let _ = answer(&mut FrameReader::new(&stream), &mut FrameWriter::new(&stream));
            let bytes = NEXT.lock().expect("nobody panics").clone();
            let _ = (&stream).write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = std::io::copy(&mut &stream, &mut std::io::sink());
        }
    });
    Client::new(path)
});

/// A guest that says anything.
fn client(bytes: &[u8], what: u8) {
    *NEXT.lock().expect("nobody panics") = bytes.into();
    let place = Place::new();
    let options = CopyOptions::default();
    match what >> 2 & 7 {
        0 => drop(GUEST.info().map_err(|e| e.to_string())),
        1 => drop(
            GUEST
                .copy_out("/x", &place.inside(), options)
                .map_err(|e| e.to_string()),
        ),
        2 => drop(
            GUEST
                .copy_out("/x", &place.inside().join("new"), options)
                .map_err(|e| e.to_string()),
        ),
        3 => drop(
            GUEST
                .copy_in(&place.0.path().join("beside"), "/x", options)
                .map_err(|e| e.to_string()),
        ),
        4 => drop(GUEST.freeze(Duration::from_secs(1)).and_then(|f| f.thaw())),
        _ => {
            let Ok(mut session) = GUEST.exec(&Exec::default()) else {
                return;
            };
            let input = session.input();
            let _ = input.signal(9);
            while let Ok(event) = session.next_event() {
                match event {
                    Event::Stdout(data) | Event::Stderr(data) => assert!(data.len() <= MAX_FRAME),
                    Event::Exited(_) => break,
                    Event::Refused(e) => drop(e.to_string()),
                }
            }
        }
    }
}
