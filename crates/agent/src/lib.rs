//! The agent in a guest: what [`donjon_agent_protocol`] says, done.
//!
//! [`session`] answers one connection, of whatever kind; [`serve`] accepts them from the host's vsock. [`init`] is
//! the first program of a guest, [`child`] what a program is started through.
//!
//! Names are read from /etc/passwd and /etc/group here: the binary is linked statically, where glibc has no
//! name service.
#![deny(unsafe_code)]

pub mod accounts;
pub mod child;
mod first_boot;
mod freeze;
mod guest;
mod info;
pub mod init;
pub mod netlink;
mod processes;
mod raw;
pub mod serve;
pub mod session;
mod system;
mod text;

pub use first_boot::apply as first_boot;
pub use guest::Guest;
pub use session::Agent;
pub use system::{Frozen, System};
