//! What an agent tells about its machine.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// The machine as it is now.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Info {
    /// The agent's version.
    pub version: String,
    /// The operating system.
    pub os: Os,
    /// Release of the kernel, as in `uname -r`.
    pub kernel: String,
    /// The machine's name.
    pub hostname: String,
    /// Network interfaces; the first 64.
    pub interfaces: Vec<Interface>,
    /// Time since the kernel started.
    pub uptime: Duration,
    /// Programs that run or want to, on average over 1, 5 and 15 minutes.
    pub load: [f32; 3],
    /// Memory.
    pub memory: Memory,
}

/// An operating system, by os-release(5). Each is empty if it does not say.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Os {
    /// `ID`, such as `debian`.
    pub id: String,
    /// `VERSION_ID`, such as `12`.
    pub version: String,
    /// `PRETTY_NAME`.
    pub name: String,
}

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its hardware address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Its addresses with the length of their prefix, in bits; the first 16.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Memory, in bytes, by /proc/meminfo.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// What the kernel manages.
    pub total: u64,
    /// What programs could get without swapping.
    pub available: u64,
    /// Swap space.
    pub swap_total: u64,
    /// Swap space that is not used.
    pub swap_free: u64,
}
