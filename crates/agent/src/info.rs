//! What the machine is and how it is.

use donjon_agent_protocol::{Info, Interface, Memory, Os};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// Interfaces that are told.
const INTERFACES: usize = 64;
/// Addresses of each.
const ADDRESSES: usize = 16;
/// Bytes of anything that has a name.
const LONGEST: usize = 256;

/// All of it, of the system at `root`.
pub fn info(root: &Path) -> Info {
    let uname = rustix::system::uname();
    let proc = |name: &str| fs::read_to_string(Path::new("/proc").join(name)).unwrap_or_default();
    let mut uptime = proc("uptime");
    uptime.truncate(uptime.find(' ').unwrap_or(uptime.len()));
    let uptime = uptime.parse().ok();
    let uptime = uptime.and_then(|s| Duration::try_from_secs_f64(s).ok());
    let mut load = [0.0; 3];
    for (slot, word) in load.iter_mut().zip(proc("loadavg").split_ascii_whitespace()) {
        *slot = word.parse().unwrap_or(0.0);
    }
    Info {
        version: env!("CARGO_PKG_VERSION").into(),
        os: os(root),
        kernel: shortened(&uname.release().to_string_lossy()),
        hostname: shortened(&uname.nodename().to_string_lossy()),
        interfaces: interfaces(),
        uptime: uptime.unwrap_or_default(),
        load,
        memory: memory(&proc("meminfo")),
    }
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST)].into()
}

fn os(root: &Path) -> Os {
    // os-release(5): the first that there is.
    let files = ["etc/os-release", "usr/lib/os-release"].map(|f| crate::text::read(&root.join(f)));
    let text = files
        .into_iter()
        .flatten()
        .find(|t| !t.is_empty())
        .unwrap_or_default();
    let field = |name: &str| {
        let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
        let value = value.unwrap_or_default().trim();
        let bare = value.trim_matches(['"', '\'']);
        shortened(&bare.replace(['\\', '"'], ""))
    };
    Os {
        id: field("ID"),
        version: field("VERSION_ID"),
        name: field("PRETTY_NAME"),
    }
}

fn memory(meminfo: &str) -> Memory {
    let field = |name: &str| {
        let value = meminfo
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        let kib: u64 = value
            .and_then(|v| v.trim().strip_suffix("kB")?.trim().parse().ok())
            .unwrap_or(0);
        kib.saturating_mul(1024)
    };
    Memory {
        total: field("MemTotal"),
        available: field("MemAvailable"),
        swap_total: field("SwapTotal"),
        swap_free: field("SwapFree"),
    }
}

fn interfaces() -> Vec<Interface> {
    let mut found: Vec<Interface> = vec![];
    for entry in getifaddrs().into_iter().flatten() {
        let position = found.iter().position(|i| i.name == entry.interface_name);
        let Some(index) = position.or_else(|| {
            let interface = Interface {
                name: entry.interface_name.clone(),
                mac: None,
                addresses: vec![],
            };
            (found.len() < INTERFACES).then(|| {
                found.push(interface);
                found.len() - 1
            })
        }) else {
            continue;
        };
        let interface = &mut found[index];
        let Some(address) = entry.address else {
            continue;
        };
        if let Some(link) = address.as_link_addr() {
            interface.mac = link.addr().filter(|a| *a != [0; 6]);
        } else if let Some(ip) = ip(&address)
            && interface.addresses.len() < ADDRESSES
        {
            let prefix = entry.netmask.as_ref().and_then(self::ip).map_or(0, ones);
            interface.addresses.push((ip, prefix));
        }
    }
    found
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        Some(v4.ip().into())
    } else {
        address.as_sockaddr_in6().map(|v6| v6.ip().into())
    }
}

fn ones(mask: IpAddr) -> u8 {
    let ones = match mask {
        IpAddr::V4(a) => a.to_bits().count_ones(),
        IpAddr::V6(a) => a.to_bits().count_ones(),
    };
    ones as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine() {
        let info = info(Path::new("/"));
        let loopback = info.interfaces.iter().find(|i| i.name == "lo").unwrap();
        assert!(
            loopback.addresses.contains(&(IpAddr::from([127, 0, 0, 1]), 8)),
            "{loopback:?}"
        );
        assert_eq!(loopback.mac, None);
        assert!(info.memory.available <= info.memory.total && info.memory.total > 1 << 20);
        assert!(!info.kernel.is_empty() && !info.hostname.is_empty());
        assert!(info.uptime > Duration::ZERO);
    }

    #[test]
    fn os_releases() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(os(root.path()), Os::default());
        fs::create_dir(root.path().join("etc")).unwrap();
        let text = "NAME=x\nID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME='Debian GNU/Linux 12 (bookworm)'\n";
        fs::write(root.path().join("etc/os-release"), text).unwrap();
        let os = os(root.path());
        assert_eq!(
            (&*os.id, &*os.version, &*os.name),
            ("debian", "12", "Debian GNU/Linux 12 (bookworm)")
        );
    }
}
