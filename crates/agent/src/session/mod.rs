//! One connection: a session of requests and replies.

mod copy;
mod defaults;
mod exec;
mod pump;
mod spawn;

pub use defaults::Defaults;
pub(crate) use spawn::PATH;

use crate::info;
use crate::system::{Frozen, System};
use donjon_agent_protocol::frame::{FrameError, FrameReader, FrameWriter};
use donjon_agent_protocol::{Error, ErrorKind, Reply, Request, hello};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How long the host has to say hello.
const PATIENCE: Duration = Duration::from_secs(10);

/// An agent.
pub struct Agent {
    system: Box<dyn System>,
    /// The agent's binary, through which programs are started.
    helper: PathBuf,
    defaults: Defaults,
    frozen: AtomicBool,
}

type Reader = FrameReader<UnixStream>;
type Writer = FrameWriter<UnixStream>;

impl Agent {
    /// An agent for `system`. `helper` is the agent's binary.
    pub fn new(system: impl System, helper: PathBuf, defaults: Defaults) -> Self {
        Self {
            system: Box::new(system),
            helper,
            defaults,
            frozen: AtomicBool::new(false),
        }
    }

    /// Answers a connection to its end. The stream is a connected socket of any family.
    pub fn session(&self, stream: UnixStream) -> Result<(), FrameError> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = FrameReader::new(stream.try_clone()?);
        let mut writer = FrameWriter::new(stream);
        // Whoever speaks something else has been told what is spoken here.
        if hello::answer(&mut reader, &mut writer).is_err() {
            return Ok(());
        }
        reader.get_ref().set_read_timeout(None)?;
        let mut freeze = None;
        loop {
            if !Freeze::wait(&mut freeze, &reader)? {
                let what = "the file systems were frozen for too long and have been thawed";
                return writer.send(&Reply::Error(Error::new(ErrorKind::Failed, what)));
            }
            let request = match reader.next() {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(FrameError::Malformed) => {
                    writer.send(&Reply::Error(malformed()))?;
                    continue;
                }
                // The time is over, or the connection.
                Err(FrameError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => continue,
                Err(e) => return Err(e),
            };
            let done = match request {
                Request::Exec(exec) => return exec::run(self, &exec, reader, writer),
                Request::CopyIn {
                    path,
                    source,
                    options,
                } => return copy::into_guest(self, &path, &source, options, reader, writer),
                Request::CopyOut { path, follow } => return copy::out_of_guest(self, &path, follow, writer),
                Request::Info => {
                    writer.send(&Reply::Info(info::info(self.system.root())))?;
                    continue;
                }
                Request::Freeze(time) => Freeze::begin(self, time).map(|f| freeze = Some(f)),
                Request::Thaw => Freeze::end(freeze.take()),
                other => self.simple(&other),
            };
            match done {
                Ok(()) => writer.send(&Reply::Done)?,
                Err(error) => writer.send(&Reply::Error(error))?,
            }
        }
    }

    /// Requests that are done or not, and that is all.
    fn simple(&self, request: &Request<'_>) -> Result<(), Error> {
        match request {
            Request::Ping => Ok(()),
            Request::Shutdown(how) => self.system.shutdown(*how),
            Request::SetTime(time) => self.system.set_time(*time),
            Request::Mount { tag, path, read_only } => self.system.mount(tag, &self.path(path)?, *read_only),
            Request::FirstBoot(what) => self.system.first_boot(what),
            // Parts of an exchange that has not begun.
            _ => Err(malformed()),
        }
    }

    fn path(&self, path: &str) -> Result<PathBuf, Error> {
        self.system.path(path)
    }
}

fn malformed() -> Error {
    let what = "the agent does not know this message, or not at this point; it may be older than the host";
    Error::new(ErrorKind::Malformed, what)
}

/// File systems that this session has frozen.
struct Freeze<'a> {
    frozen: Option<Box<dyn Frozen>>,
    until: Instant,
    /// The agent's mark that somebody has.
    mark: &'a AtomicBool,
}

impl<'a> Freeze<'a> {
    fn begin(agent: &'a Agent, time: Duration) -> Result<Self, Error> {
        if agent.frozen.swap(true, SeqCst) {
            let what = "the file systems are frozen already";
            return Err(Error::new(ErrorKind::Busy, what));
        }
        let mut freeze = Self {
            frozen: None,
            until: Instant::now() + time.min(Request::MAX_FREEZE),
            mark: &agent.frozen,
        };
        freeze.frozen = Some(agent.system.freeze()?);
        Ok(freeze)
    }

    fn end(freeze: Option<Self>) -> Result<(), Error> {
        let what = "the file systems are not frozen, or not any more: do not use what was saved meanwhile";
        freeze
            .map(drop)
            .ok_or_else(|| Error::new(ErrorKind::Invalid, what))
    }

    /// Has the next read wait no longer than until the end of the time. False if that is over.
    fn wait(freeze: &mut Option<Self>, reader: &Reader) -> io::Result<bool> {
        let Some(f) = freeze else {
            reader.get_ref().set_read_timeout(None)?;
            return Ok(true);
        };
        let left = f.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            *freeze = None;
            return Ok(false);
        }
        reader.get_ref().set_read_timeout(Some(left))?;
        Ok(true)
    }
}

impl Drop for Freeze<'_> {
    fn drop(&mut self) {
        drop(self.frozen.take());
        self.mark.store(false, SeqCst);
    }
}
