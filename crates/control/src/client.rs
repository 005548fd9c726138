//! Asking a domain.

use crate::line::Lines;
use crate::protocol::{Command, MAX_REPLY, Refusal, Reply, Request, VERSION};
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a domain may take to listen.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens any more.
    #[error("the domain has ended")]
    Gone,
    /// It says no.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The answer is none that this version understands.
    #[error("the domain's answer makes no sense ({0}); it may run under another version of donjon")]
    Nonsense(String),
    /// Anything else.
    #[error("the domain does not answer: {0}")]
    Io(io::Error),
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof => Self::Gone,
            ErrorKind::InvalidData => Self::Nonsense("it is too long".into()),
            _ => Self::Io(error),
        }
    }
}

/// Asks the domain that listens on `socket`.
pub fn ask<T: DeserializeOwned>(socket: &Path, command: &Command) -> Result<T, AskError> {
    let nonsense = |e: serde_json::Error| AskError::Nonsense(e.to_string());
    let mut lines = Lines::new(UnixStream::connect(socket)?, MAX_REPLY);
    let request = Request {
        version: VERSION,
        command: command.clone(),
    };
    lines.send(serde_json::to_vec(&request).map_err(nonsense)?, PATIENCE)?;
    let line = lines.next(command.patience())?.ok_or(AskError::Gone)?;
    let reply: Reply<T> = serde_json::from_slice(&line).map_err(nonsense)?;
    match (reply.error, reply.result) {
        (Some(refusal), _) => Err(AskError::Refused(refusal)),
        (None, Some(result)) => Ok(result),
        (None, None) => Err(AskError::Nonsense("it is empty".into())),
    }
}
