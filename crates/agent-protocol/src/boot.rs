//! `/donjon.json` in the initramfs: what the agent does when it is the first program of a guest.

use crate::FirstBoot;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Where the initramfs has it.
pub const PATH: &str = "/donjon.json";

/// What is done, in this order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootConfig {
    /// Kernel modules to insert: paths in the initramfs, uncompressed, each after those it needs.
    #[serde(default)]
    pub modules: Vec<String>,
    /// The root file system.
    pub root: Root,
    /// What happens then.
    pub start: Start,
}

/// A root file system.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The device, such as `/dev/vda`; for `virtiofs` the share's tag.
    pub device: String,
    /// The kind, such as `ext4`, as in /proc/filesystems.
    pub fstype: String,
    /// Nothing can be written.
    #[serde(default)]
    pub read_only: bool,
    /// Options of the file system, such as `dax=always`.
    #[serde(default)]
    pub options: String,
    /// What is written goes to memory, up to half of it, and is gone with the machine: an overlay over the root,
    /// which is mounted read-only.
    #[serde(default)]
    pub overlay: bool,
    /// Seconds to wait for the device.
    #[serde(default = "ten")]
    pub wait_seconds: u32,
}

/// What runs on the root file system.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Start {
    /// The system's own init, which becomes process 1. If it is systemd, the agent is one of its services.
    SwitchRoot {
        /// Its path.
        #[serde(default = "init")]
        init: String,
        /// What is done to a system that starts for the first time. It notes that it was done.
        #[serde(default)]
        first_boot: Option<FirstBoot>,
        /// Shares of the host, which systemd mounts.
        #[serde(default)]
        shares: Vec<Share>,
    },
    /// One program, with the agent as process 1. The machine is powered off when it ends.
    Container(Box<Container>),
}

/// A program in a machine of its own.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// The program, looked up in PATH if it has no slash, and its arguments: the image's entrypoint and command.
    pub argv: Vec<String>,
    /// Its environment, `NAME=VALUE`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Its working directory, made if it is missing; `/`, if empty.
    #[serde(default)]
    pub cwd: String,
    /// Its user, as in an image's configuration: `NAME`, `UID`, `NAME:GROUP`, `UID:GID`; root, if empty.
    #[serde(default)]
    pub user: String,
    /// The console is its controlling terminal.
    #[serde(default)]
    pub tty: bool,
    /// The signal that asks it to end.
    #[serde(default = "sigterm")]
    pub stop_signal: u8,
    /// Seconds it has then, before it is killed.
    #[serde(default = "ten")]
    pub stop_seconds: u32,
    /// The machine's name.
    #[serde(default)]
    pub hostname: String,
    /// Lines for /etc/hosts beside those for localhost and the machine's name.
    #[serde(default)]
    pub hosts: Vec<Host>,
    /// For /etc/resolv.conf, which is left alone if there are no servers.
    #[serde(default)]
    pub dns: Dns,
    /// Network interfaces beside the loopback one.
    #[serde(default)]
    pub interfaces: Vec<InterfaceConfig>,
    /// Shares of the host.
    #[serde(default)]
    pub shares: Vec<Share>,
}

/// A name in /etc/hosts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The address.
    pub address: IpAddr,
    /// Its names.
    pub names: Vec<String>,
}

/// Name servers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Their addresses.
    #[serde(default)]
    pub servers: Vec<IpAddr>,
    /// Domains that are tried for short names.
    #[serde(default)]
    pub search: Vec<String>,
}

/// A network interface with fixed addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceConfig {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<Network>,
    /// Its routes.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// The longest packet, in bytes; as the device says, if not given.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// An address with the length of its prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The address.
    pub address: IpAddr,
    /// Bits that name the network.
    pub prefix: u8,
}

/// A route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where it leads; everywhere, if not given.
    #[serde(default)]
    pub to: Option<Network>,
    /// The next hop; none for a network on the link, which needs `to`.
    #[serde(default)]
    pub via: Option<IpAddr>,
}

/// A virtiofs share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Its tag.
    pub tag: String,
    /// Where it is mounted, absolute; made if it is missing.
    pub path: String,
    /// Nothing can be written.
    #[serde(default)]
    pub read_only: bool,
}

fn init() -> String {
    "/sbin/init".into()
}

fn ten() -> u32 {
    10
}

fn sigterm() -> u8 {
    15
}

impl BootConfig {
    /// Reads it.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The file's content.
    pub fn to_json(&self) -> Vec<u8> {
        // Nothing in it can fail: there are no maps with other keys than strings.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_a_default() {
        let json = br#"{"root": {"device": "/dev/vda", "fstype": "ext4"}, "start": {"switch_root": {}}}"#;
        let config = BootConfig::parse(json).unwrap();
        assert_eq!((config.root.wait_seconds, config.root.read_only), (10, false));
        let start = Start::SwitchRoot {
            init: "/sbin/init".into(),
            first_boot: None,
            shares: vec![],
        };
        assert_eq!(config.start, start);
        assert_eq!(BootConfig::parse(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn containers() {
        let json = br#"{"root": {"device": "/dev/vda", "fstype": "ext4"}, "start": {"container": {
            "argv": ["/bin/true"], "interfaces": [{"name": "eth0",
            "addresses": [{"address": "fd00::2", "prefix": 64}], "routes": [{"via": "fd00::1"}]}]}}}"#;
        let config = BootConfig::parse(json).unwrap();
        let Start::Container(container) = &config.start else {
            panic!("{config:?}");
        };
        assert_eq!((container.stop_signal, container.stop_seconds), (15, 10));
        assert_eq!(container.interfaces[0].routes[0].to, None);
        assert_eq!(BootConfig::parse(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn what_is_misspelt_is_found() {
        let json = br#"{"root": {"device": "/dev/vda", "fstyp": "ext4"}, "start": {"switch_root": {}}}"#;
        let error = BootConfig::parse(json).unwrap_err().to_string();
        assert!(error.contains("fstyp"), "{error}");
    }
}
