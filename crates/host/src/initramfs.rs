//! The initramfs in which the guest's agent is the first program.

use crate::images::Newc;
use donjon_agent_protocol::boot::{BootConfig, PATH, Root, Start};
use std::io;

/// Modules that a guest of ours needs before its own system can load any: its disks and their file systems, and what
/// the host talks to it by.
pub const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "nvme",
    "ext4",
    "vmw_vsock_virtio_transport",
    "virtiofs",
    "virtio-rng",
];

/// Those that a guest without a system of its own needs, too.
pub const CONTAINER_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_balloon",
    "ext4",
    "vmw_vsock_virtio_transport",
    "virtiofs",
    "virtio-rng",
    "overlay",
    "af_packet",
    "unix",
    "ipv6",
    "tun",
    "fuse",
];

/// Where the modules are in the archive.
const DIRECTORY: &str = "modules";

/// An archive with modules only, which may stand in front of another.
pub fn of_modules(modules: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut archive = Newc::new(vec![]);
    archive.directory(DIRECTORY, 0o755)?;
    for (name, content) in modules {
        archive.file(&format!("{DIRECTORY}/{name}"), 0o644, content)?;
    }
    archive.finish()
}

/// An archive with the agent, which inserts the modules called `modules`, mounts `root` and does `start`.
pub fn of_agent(agent: &[u8], modules: Vec<String>, root: Root, start: Start) -> io::Result<Vec<u8>> {
    let config = BootConfig {
        modules: modules
            .iter()
            .map(|name| format!("/{DIRECTORY}/{name}"))
            .collect(),
        root,
        start,
    };
    let mut archive = Newc::new(vec![]);
    archive.directory("dev", 0o755)?;
    archive.character_device("dev/console", 0o600, (5, 1))?;
    archive.file("init", 0o755, agent)?;
    archive.file(PATH.trim_start_matches('/'), 0o600, &config.to_json())?;
    archive.finish()
}
