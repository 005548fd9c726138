//! Answering for a domain.

use crate::directory::Claim;
use crate::line::Lines;
use crate::protocol::{
    self, Command, DeviceChange, DeviceInfo, DeviceKind, Info, MAX_REQUEST, Moved, Refusal, Reply, Stats,
    VERSION,
};
use rustix::net::{Shutdown, shutdown};
use serde::Serialize;
use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a connection may take for a line, or be idle.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at a time.
const CONNECTIONS: usize = 8;

/// What is told of a domain.
pub trait Answers: Send + Sync {
    /// For [`Command::Info`].
    fn info(&self) -> Info;
    /// For [`Command::Stats`].
    fn stats(&self) -> Stats;
    /// For [`Command::Devices`].
    fn devices(&self) -> Vec<DeviceInfo>;
    /// For [`Command::DeviceAdd`].
    fn add_device(&self, kind: DeviceKind, options: &str) -> Result<DeviceInfo, Refusal>;
    /// For [`Command::DeviceRemove`].
    fn remove_device(&self, name: &str, force: bool) -> Result<(), Refusal>;
    /// For [`Command::DeviceSet`].
    fn set_device(&self, name: &str, change: &DeviceChange) -> Result<DeviceInfo, Refusal>;
    /// For [`Command::PowerButton`].
    fn press_power_button(&self) -> Result<(), Refusal>;
    /// For [`Command::Engine`].
    fn set_engine(&self, name: &str) -> Result<Moved, Refusal>;
}

/// Answers on a domain's socket until it is dropped.
pub struct Server {
    listener: Arc<UnixListener>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    // Given back when nobody answers any more.
    claim: Option<Claim>,
}

impl Server {
    /// Begins to answer under the claimed name.
    pub fn start(claim: Claim, answers: Arc<dyn Answers>) -> io::Result<Self> {
        let listener = Arc::new(claim.listen()?);
        let ending = Arc::new(AtomicBool::new(false));
        let (l, e) = (listener.clone(), ending.clone());
        let accept = move || accept(&l, &e, &answers);
        Ok(Self {
            listener,
            ending,
            thread: Some(thread::Builder::new().name("control".into()).spawn(accept)?),
            claim: Some(claim),
        })
    }
}

impl Server {
    /// Answers no longer. The name stays taken until what is returned is dropped, so that who sees it free finds
    /// nothing of the domain in use.
    pub fn end(mut self) -> Option<Claim> {
        self.stop();
        self.claim.take()
    }

    fn stop(&mut self) {
        self.ending.store(true, SeqCst);
        // Ends the wait for a connection.
        if shutdown(&*self.listener, Shutdown::Both).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(listener: &UnixListener, ending: &AtomicBool, answers: &Arc<dyn Answers>) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = listener.accept();
        if ending.load(SeqCst) {
            return;
        }
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, perhaps: not for ever.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if connections.fetch_add(1, SeqCst) >= CONNECTIONS {
            connections.fetch_sub(1, SeqCst);
            let busy = Refusal::new("busy", "too many ask at once; try again");
            let _ = refuse(&mut Lines::new(stream, 0), busy);
            continue;
        }
        let (answers, open) = (answers.clone(), connections.clone());
        let serve = move || {
            if let Err(error) = serve(stream, &*answers) {
                tracing::debug!(%error, "control connection");
            }
            open.fetch_sub(1, SeqCst);
        };
        if thread::Builder::new()
            .name("control-answer".into())
            .spawn(serve)
            .is_err()
        {
            connections.fetch_sub(1, SeqCst);
        }
    }
}

/// Answers one connection to its end.
fn serve(stream: UnixStream, answers: &dyn Answers) -> io::Result<()> {
    let mut lines = Lines::new(stream, MAX_REQUEST);
    loop {
        let line = match lines.next(PATIENCE) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::InvalidData => {
                let message = format!("a request has {MAX_REQUEST} bytes at most");
                return refuse(&mut lines, Refusal::new("too-long", message));
            }
            Err(e) => return Err(e),
        };
        match protocol::parse(&line) {
            Ok(Command::Info) => answer(&mut lines, Ok(answers.info()))?,
            Ok(Command::Stats) => answer(&mut lines, Ok(answers.stats()))?,
            Ok(Command::Devices) => answer(&mut lines, Ok(answers.devices()))?,
            Ok(Command::DeviceAdd { kind, options }) => {
                answer(&mut lines, answers.add_device(kind, &options))?;
            }
            Ok(Command::DeviceRemove { name, force }) => {
                // An answer has a result.
                answer(&mut lines, answers.remove_device(&name, force).map(|()| true))?;
            }
            Ok(Command::DeviceSet { name, change }) => {
                answer(&mut lines, answers.set_device(&name, &change))?;
            }
            Ok(Command::PowerButton) => answer(&mut lines, answers.press_power_button().map(|()| true))?,
            Ok(Command::Engine { name }) => answer(&mut lines, answers.set_engine(&name))?,
            Err(refusal) => refuse(&mut lines, refusal)?,
        }
    }
}

fn answer<T: Serialize>(lines: &mut Lines, result: Result<T, Refusal>) -> io::Result<()> {
    let result = match result {
        Ok(result) => result,
        Err(refusal) => return refuse(lines, refusal),
    };
    let reply = Reply {
        version: VERSION,
        result: Some(result),
        error: None,
    };
    lines.send(serde_json::to_vec(&reply)?, PATIENCE)
}

fn refuse(lines: &mut Lines, refusal: Refusal) -> io::Result<()> {
    let reply = Reply::<()> {
        version: VERSION,
        result: None,
        error: Some(refusal),
    };
    lines.send(serde_json::to_vec(&reply)?, PATIENCE)
}
