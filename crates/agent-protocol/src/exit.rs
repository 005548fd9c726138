//! How a program ended.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What became of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Exit {
    /// It exited, with this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

impl Exit {
    /// The code with which a shell reports it: 128 and the signal's number.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What is sent to the host's [`EXIT_PORT`](crate::EXIT_PORT), as the only frame of its connection, before the
/// machine is powered off.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Report {
    /// The main program ended by itself, or because the machine was to be shut down.
    Exited(Exit),
    /// It could not be started, for this reason.
    Failed(String),
}
