//! What a virtual network interface is connected to.
//!
//! A [`Backend`] takes the guest's packets and has packets for it, through one [`Port`] for each pair of queues:
//! [`Tap`] the host's network, [`User`] what the host's programs can reach, [`Switch`] other domains of the same user,
//! [`Pair`] another backend in the same process, [`Unplugged`] nothing. [`NetSpec`] says which one, as on the command line, and connects it.
//!
//! A packet is an Ethernet frame behind a [`Header`], as in the queues of a virtio network device, so that
//! checksums and segmentation are left to whoever can do them best. Its bytes stay where they are, in guest RAM:
//! see [`Gather`] and [`Scatter`].
#![deny(unsafe_code)]

// Tests in here use what those in tests/ do.
#[cfg(test)]
extern crate self as donjon_net;

mod backend;
mod checksum;
mod header;
mod inbox;
mod layout;
mod mac;
mod name;
mod offloads;
pub mod options;
mod packet;
mod pair;
mod raw;
mod segment;
mod spec;
mod switch;
mod tap;
mod unplugged;
pub mod user;

pub use backend::{Backend, Drops, Port};
pub use header::{HEADER, Header, MAX_PACKET, Malformed, ROOM};
pub use mac::{Mac, MacError};
pub use name::{InterfaceName, Name, NameError};
pub use offloads::Offloads;
pub use packet::{Gather, Scatter};
pub use pair::Pair;
pub use segment::{MAX_SEGMENTS, Segments};
pub use spec::{ConnectError, Connection, NetSpec, SpecError};
pub use switch::{MAX_PORTS, Switch, SwitchError};
pub use tap::{MAX_QUEUES, Tap, TapError};
pub use unplugged::Unplugged;
pub use user::{Addresses, Forward, ForwardError, User, UserError, UserNet};
