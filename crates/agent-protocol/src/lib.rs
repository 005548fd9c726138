//! What the host and the agent in a guest say to each other.
//!
//! The agent listens on the vsock port [`PORT`]. A connection carries one session: [`hello`] first, then
//! [`Request`]s of the host and [`Reply`]s of the agent, each a [`frame`]: a length and a postcard record. Most
//! requests have one reply, after which the next may follow. [`Request::Exec`], [`Request::CopyIn`] and
//! [`Request::CopyOut`] begin an exchange of several messages and end the session.
//!
//! Either side may be hostile to the other. A frame is bounded, what does not parse is answered with
//! [`ErrorKind::Malformed`], and [`copy`] writes nowhere but beneath the directory it was given.
//!
//! [`boot`] is what the agent reads when it is the first program of a guest.
#![forbid(unsafe_code)]

pub mod boot;
pub mod copy;
pub mod exit;
pub mod frame;
pub mod hello;
mod info;
mod message;

pub use info::{Info, Interface, Memory, Os};
pub use message::{Error, ErrorKind, Exec, FirstBoot, Reply, Request, Shutdown, Terminal, User, WindowSize};

/// The vsock port on which the agent listens.
pub const PORT: u32 = 1030;
/// The vsock port of the host (CID 2) to which an agent that runs a container as the machine's only purpose
/// connects when that has ended, to send an [`exit::Report`].
pub const EXIT_PORT: u32 = 1031;

/// Bytes of standard input that the host may send before the first [`Reply::StdinCredit`].
pub const STDIN_WINDOW: u32 = 256 << 10;
