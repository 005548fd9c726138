//! Talking to the agent in a guest: [`Client`].
//!
//! The way there is the Unix socket of the domain's vsock device. Everything blocks; everything that should be
//! answered at once has a time limit. What the guest says is not trusted: see [`donjon_agent_protocol`].
#![forbid(unsafe_code)]

mod attach;
mod client;
mod connection;
mod copy;
mod error;
mod exec;
mod exit_watch;
mod freeze;
mod printable;
mod terminal;

pub use attach::Local;
pub use client::Client;
pub use copy::CopyOptions;
pub use donjon_agent_protocol as protocol;
pub use error::ClientError;
pub use exec::{Event, Input, Session};
pub use exit_watch::ExitWatch;
pub use freeze::Frozen;
pub use terminal::terminal_size;
