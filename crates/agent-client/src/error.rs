//! What can go wrong.

use donjon_agent_protocol::copy::CopyError;
use donjon_agent_protocol::frame::FrameError;
use donjon_agent_protocol::hello::HelloError;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no domain behind the socket.
    #[error(
        "nobody listens at {0:?}: the domain does not run, or has no vsock device; start it with --vsock {0:?}"
    )]
    NoDomain(PathBuf),
    /// The domain's device is there, and nobody in the guest listens.
    #[error(
        "the guest has no agent (or it has not started yet): {0}; wait until it has booted, or look at its console"
    )]
    NoAgent(&'static str),
    /// The agent speaks another version.
    #[error("{0}; start the domain anew, so that it gets the agent of this donjon")]
    Version(HelloError),
    /// The agent says no.
    #[error(transparent)]
    Refused(#[from] donjon_agent_protocol::Error),
    /// What the agent says makes no sense.
    #[error("the agent's answer makes no sense: {0}")]
    Nonsense(&'static str),
    /// It does not answer any more.
    #[error("the agent has not answered for {0} s; the guest may be paused, or hang: look at its console")]
    Silent(u64),
    /// The guest is gone, or its agent.
    #[error("the connection to the guest's agent has ended; the guest may have been shut down")]
    Gone,
    /// What is to be sent is too long.
    #[error(
        "the command and its environment are longer than 64 KiB; put them in a file and copy that: donjon cp"
    )]
    TooLong,
    /// A file could not be copied.
    #[error(transparent)]
    Copy(CopyError),
    /// Standard input, output or error, or the terminal.
    #[error("{0}: {1}")]
    Local(&'static str, io::Error),
    /// A signal ended it; the program's session in the guest ends, too.
    #[error("ended by signal {0}")]
    Interrupted(i32),
    /// The connection failed.
    #[error("the connection to the guest's agent failed: {0}")]
    Io(io::Error),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(e) => e.into(),
            FrameError::Length(_) => Self::Nonsense("a frame has an impossible length"),
            FrameError::Malformed => Self::Nonsense("a message is unknown"),
            FrameError::TooLong => Self::TooLong,
        }
    }
}
