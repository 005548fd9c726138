//! `cargo xtask lab`: a machine with hardware virtualization, where the host has none: QEMU's TCG emulates AMD's.
//!
//! Its kernel is that of the image `tiny`, its system a disk with busybox and our programs. Process 1 is this very
//! program ([`init`]), which speaks the protocol of the guests' agent over ports of a virtio console: programs,
//! their streams and their ends, and copies, come through as they do with `donjon exec` and `donjon cp`.

mod bridge;
mod contents;
mod disk;
pub mod init;
mod machine;
mod names;
mod processor;
mod root;
mod session;
mod suites;

pub use suites::test;

use crate::command::{cargo, run};
use crate::prerequisites::{QEMU, SETPRIV, need};
use anyhow::{Result, bail};
use machine::Spec;
use names::{Copied, Peer};
use root::Profile;
use session::Lab;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// Virtual CPUs.
    #[arg(long, default_value_t = 2, default_value_if("icount", "true", "1"))]
    cpus: u32,
    /// Memory, as QEMU takes it.
    #[arg(long, default_value = "4G")]
    memory: String,
    /// Time in the lab is a count of instructions, 1 ns each: slower, and independent of the host. One CPU.
    #[arg(long)]
    icount: bool,
    /// Another program for /usr/bin, with its libraries.
    #[arg(long, value_name = "NAME=PATH", value_parser = names::peer)]
    peer: Vec<Peer>,
    /// A disk for the lab, /dev/vda and so on; what is written stays.
    #[arg(long, value_name = "FILE")]
    disk: Vec<PathBuf>,
    /// An image of your store that `donjon run` is to find there, such as `debian`.
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// Copy a file or a directory there first.
    #[arg(long, value_name = "HOST:LAB", value_parser = names::put)]
    put: Vec<Copied>,
    /// Copy a file or a directory back at the end, also if the program fails.
    #[arg(long, value_name = "LAB:HOST", value_parser = names::get)]
    get: Vec<Copied>,
    /// Take the programs as they were built before.
    #[arg(long)]
    no_build: bool,
    /// Programs of cargo's dev profile, which are built sooner and run slower.
    #[arg(long)]
    dev: bool,
    /// End it after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Give the program this one's standard input.
    #[arg(long, short)]
    interactive: bool,
    /// Give the program a terminal.
    #[arg(long, short)]
    tty: bool,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs it; its exit code, as a shell reports it.
pub fn lab(args: &Args) -> Result<u8> {
    if args.icount && args.cpus != 1 {
        // QEMU 7.2 hangs when the second one is started.
        bail!("--icount is for one CPU: leave --cpus out");
    }
    let profile = if args.dev { Profile::Dev } else { Profile::Release };
    need_programs()?;
    if !args.no_build {
        build(profile)?;
    }
    let kernel = root::kernel()?;
    let image = args.image.as_deref().map(root::image).transpose()?;
    let extra = root::Extra {
        profile,
        peers: &args.peer,
        image: image.as_ref(),
        ..root::Extra::default()
    };
    let spec = Spec {
        cpus: args.cpus,
        memory: args.memory.clone(),
        icount: args.icount,
        root: root::disk(&kernel, &extra)?,
        images: image.as_ref().map(root::images_disk).transpose()?,
        disks: args.disk.clone(),
        ports: args.put.len() + 1 + args.get.len() + usize::from(!args.disk.is_empty()),
        ..Spec::of(kernel.kernel)
    };
    let mut lab = Lab::start(&spec, args.timeout.map(Duration::from_secs))?;
    converse(args, &mut lab).map_err(|e| lab.explain(e))
}

/// Installs what a lab runs on.
fn need_programs() -> Result<()> {
    need(QEMU)?;
    need(SETPRIV)
}

/// Builds our programs.
fn build(profile: Profile) -> Result<()> {
    let mut words = vec!["build", "--quiet", "--profile", profile.name()];
    words.extend(
        root::PROGRAMS
            .iter()
            .flat_map(|(package, _)| ["--package", package]),
    );
    run(&mut cargo(&words))
}

/// Copies, runs and copies back.
fn converse(args: &Args, lab: &mut Lab) -> Result<u8> {
    for put in &args.put {
        lab.put(put)?;
    }
    let exit = lab.attach(&args.command, args.interactive, args.tty)?;
    for get in &args.get {
        lab.get(get)?;
    }
    if !args.disk.is_empty() {
        lab.run(&["sync".into()])?;
    }
    Ok(exit.code())
}
