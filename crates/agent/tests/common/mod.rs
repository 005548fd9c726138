//! An agent behind a socket such as a domain's vsock device has, without a domain.
#![allow(dead_code)]

use donjon_agent::session::Defaults;
use donjon_agent::{Agent, Frozen, System};
use donjon_agent_client::Client;
use donjon_agent_protocol::{Error, Exec, FirstBoot, Shutdown};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// What the machine was told.
pub type Log = Arc<Mutex<Vec<String>>>;

/// A machine that writes down what it is told. Its root directory is one of the host's.
pub struct Recorder {
    root: PathBuf,
    log: Log,
}

struct FrozenRecorder(Log);

impl Frozen for FrozenRecorder {}

impl Drop for FrozenRecorder {
    fn drop(&mut self) {
        self.0.lock().unwrap().push("thaw".into());
    }
}

impl Recorder {
    fn told(&self, what: String) -> Result<(), Error> {
        self.log.lock().unwrap().push(what);
        Ok(())
    }
}

impl System for Recorder {
    fn root(&self) -> &Path {
        &self.root
    }
    fn shutdown(&self, how: Shutdown) -> Result<(), Error> {
        self.told(format!("{how:?}"))
    }
    fn set_time(&self, time: Duration) -> Result<(), Error> {
        self.told(format!("time {time:?}"))
    }
    fn mount(&self, tag: &str, path: &Path, read_only: bool) -> Result<(), Error> {
        self.told(format!("mount {tag} {} {read_only}", path.display()))
    }
    fn freeze(&self) -> Result<Box<dyn Frozen>, Error> {
        self.told("freeze".into())?;
        Ok(Box::new(FrozenRecorder(self.log.clone())))
    }
    fn first_boot(&self, what: &FirstBoot) -> Result<(), Error> {
        donjon_agent::first_boot(&self.root, what)
    }
}

/// The guest.
pub struct Guest {
    pub client: Client,
    pub log: Log,
    pub directory: TempDir,
}

impl Guest {
    /// One whose root directory is the host's.
    pub fn new() -> Self {
        Self::at(Path::new("/"), Defaults::default())
    }

    pub fn at(root: &Path, defaults: Defaults) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("vsock");
        let listener = UnixListener::bind(&socket).unwrap();
        let log = Log::default();
        let system = Recorder {
            root: root.into(),
            log: log.clone(),
        };
        let helper = PathBuf::from(env!("CARGO_BIN_EXE_donjon-agent"));
        let agent = Arc::new(Agent::new(system, helper, defaults));
        // Ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (agent, stream) = (agent.clone(), stream.unwrap());
                thread::spawn(move || serve(&agent, stream));
            }
        });
        Self {
            client: Client::new(socket),
            log,
            directory,
        }
    }

    /// A connection on which nothing has been said.
    pub fn raw(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.client.socket()).unwrap();
        stream.write_all(b"CONNECT 1030\n").unwrap();
        let mut line = [0; 8];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"OK 1030\n");
        stream
    }

    /// Runs a shell's command without input; how it ended and what it wrote.
    pub fn sh(&self, script: &str) -> (u8, String, String) {
        self.run(&sh(script))
    }

    pub fn run(&self, exec: &Exec) -> (u8, String, String) {
        let (exit, out, err) = self.client.exec(exec).unwrap().output(1 << 20).unwrap();
        (
            exit.code(),
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }
}

/// As virtio's vsock device does.
fn serve(agent: &Agent, mut stream: UnixStream) {
    let mut line = vec![];
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        line.extend(byte);
    }
    assert_eq!(line, b"CONNECT 1030\n");
    stream.write_all(b"OK 1030\n").unwrap();
    let _ = agent.session(stream);
}

pub fn sh(script: &str) -> Exec {
    command(&["/bin/sh", "-c", script])
}

pub fn command(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        cwd: Some("/".into()),
        ..Exec::default()
    }
}

/// Waits until something is so; what has to happen anyway may take its time on a busy host.
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("never: {what}");
}
