//! What a domain boots, and what its guest is told.

use crate::failure::Failure;
use crate::run::boot_failure;
use anyhow::{Context, anyhow};
use donjon_agent_protocol::boot::{
    Container, Dns, InterfaceConfig, Network, Root, Route, Share as Mount, Start,
};
use donjon_agent_protocol::{FirstBoot, User};
use donjon_block::{Format, Options, open};
use donjon_host::domains::{Boot, DomainRecord, SetUp};
use donjon_host::initramfs::{self, MODULES};
use donjon_host::store::Process;
use donjon_host::{disk_boot, images, progress};
use donjon_machine::boot::{BootSource, Image, Role};
use donjon_net::{Connection, NetSpec};
use donjon_vmm::devices::Share;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::Path;

/// The first disk, as Linux calls it.
const DISK: &str = "/dev/vda";
/// Seconds that a guest waits for its root disk, which is there from the beginning.
const WAIT: u32 = 30;

/// Kernel, initial RAM disk and command line.
pub fn boot_source(
    name: &str,
    record: &DomainRecord,
    disk: Option<&Path>,
    terminal: bool,
) -> Result<BootSource, Failure> {
    let open = |role, path: &Path| Image::open(role, path).map_err(boot_failure);
    let (kernel, initrd) = match &record.boot {
        Boot::Kernel { kernel, initrd } => {
            let initrd = initrd
                .as_deref()
                .map(|path| open(Role::Initrd, path))
                .transpose()?;
            (open(Role::Kernel, kernel)?, initrd)
        }
        Boot::Tiny => {
            let image = images::tiny(&progress::Console::new())?;
            tracing::info!(version = image.version, "image");
            (
                open(Role::Kernel, &image.kernel)?,
                Some(open(Role::Initrd, &image.initrd)?),
            )
        }
        Boot::Disk => {
            let disk = disk.context("the domain has no disk")?;
            let (kernel, initrd) = of_disk(name, record, disk)?;
            let kernel =
                Image::from_bytes(Role::Kernel, "the disk's kernel", kernel).map_err(boot_failure)?;
            let initrd = Image::from_bytes(Role::Initrd, "the agent", initrd).map_err(boot_failure)?;
            (kernel, Some(initrd))
        }
        Boot::Container(process) => {
            let kernel = images::container_kernel(&progress::Console::new())?;
            let initrd = of_container(name, record, process, &kernel, terminal)?;
            let initrd = Image::from_bytes(Role::Initrd, "the agent", initrd).map_err(boot_failure)?;
            (open(Role::Kernel, &kernel.kernel)?, Some(initrd))
        }
    };
    Ok(BootSource {
        kernel,
        initrd,
        command_line: record.append.clone().unwrap_or_else(|| command_line(record)),
    })
}

/// What a kernel is told if the user says nothing. A panic shows its message and stops, as on hardware; with
/// --no-reboot it resets at once, so that scripts do not hang.
fn command_line(record: &DomainRecord) -> String {
    let mut line = String::from("console=ttyS0");
    if record.virtio_console {
        line += " console=hvc0";
    }
    if !matches!(record.boot, Boot::Kernel { .. }) {
        // The kernel's tests of its own ciphers are for kernel developers, and half of the boot.
        line += " quiet cryptomgr.notests";
    }
    // A program's output must not have the kernel's in it.
    if matches!(record.boot, Boot::Container(_)) {
        line += " loglevel=1";
    }
    // Interfaces are called eth0 and so on, whatever slot they are in.
    if matches!(record.boot, Boot::Disk | Boot::Container(_)) {
        line += " net.ifnames=0";
    }
    if record.no_reboot {
        line += " panic=-1";
    }
    line
}

fn of_disk(name: &str, record: &DomainRecord, disk: &Path) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let options = Options {
        format: Some(Format::Qcow2),
        read_only: true,
        // After a reset this process has it open itself. What the guest has flushed is there.
        lock: false,
    };
    let system = disk_boot::find(&open(disk, &options)?, MODULES)?;
    tracing::info!(system = system.name, kernel = system.release, root = %system.root, "found on the disk");
    let root = Root {
        device: system.root.device(DISK),
        fstype: system.file_system.into(),
        read_only: false,
        options: String::new(),
        overlay: false,
        wait_seconds: WAIT,
    };
    // With cloud-init, that is what names the system and makes users.
    let first_boot = (record.set_up == SetUp::Agent).then(|| FirstBoot {
        hostname: Some(host_name(name)),
        user: record.user.as_ref().map(|user| User {
            name: user.name.clone(),
            ssh_keys: user.ssh_keys.clone(),
            shell: None,
            sudo: true,
        }),
        timezone: None,
    });
    let start = Start::SwitchRoot {
        init: "/sbin/init".into(),
        first_boot,
        shares: mounts(record)?,
    };
    let mut initrd = initramfs::of_modules(&system.modules)?;
    let names = system.modules.into_iter().map(|(name, _)| name).collect();
    initrd.extend(initramfs::of_agent(
        donjon_agent_binary::AGENT,
        names,
        root,
        start,
    )?);
    Ok((system.kernel, initrd))
}

fn of_container(
    name: &str,
    record: &DomainRecord,
    process: &Process,
    kernel: &images::KernelWithModules,
    terminal: bool,
) -> Result<Vec<u8>, Failure> {
    let root = Root {
        device: DISK.into(),
        fstype: "ext4".into(),
        read_only: false,
        options: String::new(),
        overlay: false,
        wait_seconds: WAIT,
    };
    let (interfaces, servers) = interfaces(record)?;
    let container = Container {
        argv: [&process.entrypoint[..], &process.command].concat(),
        env: process.environment.clone(),
        cwd: process.directory.clone(),
        user: process.user.clone(),
        tty: terminal && std::io::stdin().is_terminal(),
        stop_signal: signal(&process.stop_signal),
        stop_seconds: 10,
        hostname: host_name(name),
        hosts: vec![],
        dns: Dns {
            servers,
            search: vec![],
        },
        interfaces,
        shares: mounts(record)?,
    };
    let start = Start::Container(Box::new(container));
    let mut initrd = std::fs::read(&kernel.modules)
        .with_context(|| format!("cannot read {}", kernel.modules.display()))?;
    initrd.extend(initramfs::of_agent(
        donjon_agent_binary::AGENT,
        kernel.order.clone(),
        root,
        start,
    )?);
    Ok(initrd)
}

fn mounts(record: &DomainRecord) -> Result<Vec<Mount>, Failure> {
    let shares = record.shares.iter().map(|s| s.parse::<Share>());
    let mounts = shares.map(|share| {
        share.map(|share| Mount {
            tag: share.tag().to_string(),
            path: share.guest.clone(),
            read_only: share.read_only,
        })
    });
    Ok(mounts.collect::<Result<_, _>>()?)
}

/// Interfaces with the addresses that a network in user mode has for its guest, and who answers for names there.
fn interfaces(record: &DomainRecord) -> Result<(Vec<InterfaceConfig>, Vec<IpAddr>), Failure> {
    let (mut interfaces, mut servers) = (vec![], vec![]);
    for (index, net) in record.nets.iter().enumerate() {
        let net: NetSpec = net.parse()?;
        let Connection::User(user) = &net.connection else {
            continue;
        };
        let a = user.addresses();
        let network = |address: IpAddr, prefix| Network { address, prefix };
        let default = |via: IpAddr| Route {
            to: None,
            via: Some(via),
        };
        // Only one way leads out.
        let first = interfaces.is_empty();
        interfaces.push(InterfaceConfig {
            name: format!("eth{index}"),
            addresses: vec![
                network(a.guest.into(), a.prefix),
                network(a.guest6.into(), donjon_net::Addresses::PREFIX6),
            ],
            routes: if first {
                vec![default(a.gateway.into()), default(a.gateway6.into())]
            } else {
                vec![]
            },
            mtu: None,
        });
        if first {
            servers = vec![a.dns.into(), a.dns6.into()];
        }
    }
    Ok((interfaces, servers))
}

/// A domain's name as a host's (RFC 1123).
fn host_name(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    plain.trim_matches('-').to_ascii_lowercase()
}

/// A signal's number by its name.
fn signal(name: &str) -> u8 {
    const TERM: u8 = 15;
    let names = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("KILL", 9),
        ("USR1", 10),
        ("USR2", 12),
        ("TERM", TERM),
        ("WINCH", 28),
        ("PWR", 30),
    ];
    let plain = name.strip_prefix("SIG").unwrap_or(name);
    let known = names.iter().find(|(n, _)| *n == plain).map(|(_, number)| *number);
    // SIGRTMIN is 34 in the C library that counts: systemd's images stop by SIGRTMIN+3.
    let real_time = || {
        plain
            .strip_prefix("RTMIN+")?
            .parse::<u8>()
            .ok()?
            .checked_add(34)
            .filter(|n| *n <= 64)
    };
    let number = || plain.parse().ok().filter(|n| (1..=64).contains(n));
    known.or_else(real_time).or_else(number).unwrap_or(TERM)
}

/// Refuses what an engine's or a model's name in a state file does not mean.
pub fn unknown(what: &str, name: &str) -> Failure {
    anyhow!("no {what} is called {name}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in [
            ("SIGQUIT", 3),
            ("TERM", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("", 15),
            ("SIGNONE", 15),
            ("99", 15),
        ] {
            assert_eq!(signal(name), number, "{name}");
        }
    }

    #[test]
    fn names_of_domains_become_names_of_hosts() {
        assert_eq!(host_name("web_1.x"), "web-1-x");
        assert_eq!(host_name("Debian"), "debian");
    }
}
