//! Process 1 of the lab, and what answers the host there.

use super::bridge;
use super::root::{AGENT_PATH, IMAGES, MODULE_DIRECTORY};
use anyhow::{Context, Result, anyhow};
use donjon_agent::init::{insert, mounts};
use donjon_agent::netlink::Netlink;
use donjon_agent::session::Defaults;
use donjon_agent::{Agent, Guest};
use rustix::mount::{MountFlags, mount};
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a disk may take to appear.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often something is looked for.
const PAUSE: Duration = Duration::from_millis(5);

/// What the kernel tells it.
#[derive(clap::Args)]
pub struct Args {
    /// Conversations with the host.
    #[arg(long)]
    ports: usize,
    /// There is a disk with images.
    #[arg(long)]
    images: bool,
    /// Be the one that answers, not process 1.
    #[arg(long)]
    serve: bool,
}

/// Never returns where it is process 1.
pub fn init(args: &Args) -> Result<()> {
    if args.serve {
        serve(args.ports);
    }
    if let Err(error) = boot(args) {
        eprintln!("cannot start the lab: {error:#}");
    }
    reboot(RebootCommand::PowerOff).context("cannot power off")?;
    Ok(())
}

/// Prepares the machine and answers the host, who ends it all.
fn boot(args: &Args) -> Result<()> {
    let agents = |e: String| anyhow!(e);
    mounts::basic().map_err(agents)?;
    mounts::container().map_err(agents)?;
    for (kind, path) in [("debugfs", "/sys/kernel/debug"), ("hugetlbfs", "/dev/hugepages")] {
        fs::create_dir_all(path)?;
        mount(kind, path, kind, MountFlags::empty(), None).with_context(|| format!("cannot mount {path}"))?;
    }
    let order = fs::read_to_string(Path::new("/").join(MODULE_DIRECTORY).join("order"))?;
    for module in order.lines() {
        insert(&format!("/{MODULE_DIRECTORY}/{module}")).map_err(agents)?;
    }
    Netlink::new()
        .and_then(|mut n| n.set_up("lo", None))
        .context("cannot bring lo up")?;
    if args.images {
        let disk = "/dev/nvme0n2";
        wait_for(Path::new(disk))?;
        mount(disk, IMAGES, "ext4", MountFlags::empty(), None).context("cannot mount the disk of images")?;
    }
    fs::create_dir_all("/run/user/0")?;
    let myself = std::env::current_exe()?;
    let ports = args.ports.to_string();
    Command::new(myself)
        .args(["lab-init", "--serve", "--ports", &ports])
        .spawn()
        .context("cannot start what answers the host")?;
    // Whoever has lost his parent is left to process 1.
    while wait(WaitOptions::empty()).is_ok() {}
    Ok(())
}

/// Answers the host on every port.
fn serve(ports: usize) -> ! {
    let agent = Agent::new(Guest::default(), AGENT_PATH.into(), Defaults::default());
    let agent = Arc::new(agent);
    // One after the other: that is how the host uses them.
    for port in 1..=ports {
        if let Err(error) = converse(&agent, port) {
            eprintln!("cannot answer on port {port}: {error:#}");
        }
    }
    loop {
        thread::park();
    }
}

fn converse(agent: &Agent, port: usize) -> Result<()> {
    let path = PathBuf::from(format!("/dev/vport0p{port}"));
    wait_for(&path)?;
    let port = bridge::Port::open(&path)?;
    let (stream, pumps) = port.bridge()?;
    agent.session(stream)?;
    pumps.finish();
    Ok(())
}

fn wait_for(path: &Path) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !path.exists() {
        if Instant::now() > until {
            return Err(anyhow!("there is no {}", path.display()));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
