//! What can be asked of an agent.

use crate::connection::Connection;
use crate::error::ClientError;
use crate::printable;
use donjon_agent_protocol::{FirstBoot, Info, Reply, Request, Shutdown};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a connection and a hello may take, if not said otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take: a guest on a busy host is slow, and so are its disks.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);
/// How often an agent is looked for.
const PAUSE: Duration = Duration::from_millis(50);

/// The way to one guest's agent. Every request has a connection of its own, so any number may be under way.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
}

impl Client {
    /// The agent of the guest whose vsock device has its socket at `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            patience: PATIENCE,
        }
    }

    /// Lets it take so long until the agent is reached; 5 s otherwise.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Where the device's socket is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn connect(&self) -> Result<Connection, ClientError> {
        let mut connection = Connection::open(&self.socket, self.patience)?;
        connection.limit(Some(ANSWER));
        Ok(connection)
    }

    fn ask(&self, request: &Request<'_>) -> Result<(), ClientError> {
        self.connect()?.ask(request)
    }

    /// Whether the agent answers.
    pub fn ping(&self) -> Result<(), ClientError> {
        self.ask(&Request::Ping)
    }

    /// Waits until the agent answers; its error, if that takes longer than `time`.
    pub fn wait_ready(&self, time: Duration) -> Result<(), ClientError> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let patience = self.patience.min(left.max(PAUSE));
            let result = self.clone().with_patience(patience).ping();
            match result {
                // The domain may not have made its socket yet, and a guest reboots.
                Err(
                    ClientError::NoAgent(_)
                    | ClientError::NoDomain(_)
                    | ClientError::Gone
                    | ClientError::Silent(_),
                ) if Instant::now() < until => sleep(PAUSE),
                other => return other,
            }
        }
    }

    /// What the guest is and how it is.
    pub fn info(&self) -> Result<Info, ClientError> {
        let mut connection = self.connect()?;
        connection.send(&Request::Info)?;
        match connection.next()? {
            Reply::Info(info) => Ok(printable::info(info)),
            _ => Err(ClientError::Nonsense("it answers something else")),
        }
    }

    /// Has the guest shut itself down. Returns when it has begun to.
    pub fn shutdown(&self, how: Shutdown) -> Result<(), ClientError> {
        self.ask(&Request::Shutdown(how))
    }

    /// Sets the guest's clock to so much time since 1970-01-01 00:00 UTC.
    pub fn set_time(&self, time: Duration) -> Result<(), ClientError> {
        self.ask(&Request::SetTime(time))
    }

    /// Mounts the virtiofs share `tag` at `path` in the guest.
    pub fn mount(&self, tag: &str, path: &str, read_only: bool) -> Result<(), ClientError> {
        let (tag, path) = (tag.to_owned(), path.to_owned());
        self.ask(&Request::Mount { tag, path, read_only })
    }

    /// Gives a new guest its name and its user.
    pub fn first_boot(&self, what: &FirstBoot) -> Result<(), ClientError> {
        self.ask(&Request::FirstBoot(what.clone()))
    }
}
