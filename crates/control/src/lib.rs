//! How a running domain is reached from outside: a name, a socket of that name, and a protocol on it.
//!
//! [`RunDirectory`] has a directory for every domain that runs; [`Claim`] takes one and [`Server`] answers on
//! the socket in it. [`ask`] is the other side. One line of JSON asks, one line answers: see [`protocol`].
#![forbid(unsafe_code)]

mod client;
mod directory;
mod line;
mod name;
pub mod protocol;
mod server;

pub use client::{AskError, ask};
pub use directory::{Claim, FindError, RunDirectory, RunError};
pub use name::{Name, NameError};
pub use protocol::{
    Command, DeviceChange, DeviceInfo, DeviceKind, Info, Moved, REMOVAL, Refusal, Stats, VcpuReport,
};
pub use server::{Answers, Server};
