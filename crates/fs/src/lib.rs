//! A directory of the host as a file system of guests: a FUSE server (Linux `include/uapi/linux/fuse.h`, protocol
//! 7.31 and later) that passes every operation on to the host's file system.
//!
//! A [`Share`] is the directory, a [`Server`] one session of a guest with it. Requests and answers lie in guest RAM;
//! the bytes of files move between there and the host's page cache without a copy in between.
//!
//! # What keeps the guest inside
//!
//! - A guest names files by node: a number that the server gave out. Names come one at a time; `/`, the empty name,
//!   `.` and `..` are refused, so a name leads from a directory to something in it and nowhere else.
//! - No symbolic link is followed. The guest reads it and resolves it in its own name space.
//! - Nodes are held by `O_PATH` descriptors, which open nothing. Only regular files and directories are ever opened;
//!   device nodes, sockets and FIFOs of the host are names and attributes to the guest.
//! - A directory that the host itself moves out of the shared one stays in reach of guests that know it, with what is
//!   in it, as it does for any process that is in it.
//! - Nodes, handles, requests and answers are bounded ([`Limits`]).
#![forbid(unsafe_code)]

mod abi;
mod attr;
mod handles;
mod host;
mod limits;
mod nodes;
mod ops;
mod owner;
mod saved;
mod server;
mod share;
#[cfg(test)]
mod tests;
mod wire;

pub use limits::Limits;
pub use owner::Ids;
pub use saved::SavedSession;
pub use server::{Malformed, Server};
pub use share::{Share, ShareError, ShareOptions};

/// What an operation on the host's file system gives.
type Result<T> = std::result::Result<T, rustix::io::Errno>;
