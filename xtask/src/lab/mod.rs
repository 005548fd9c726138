//! `cargo xtask lab`: a machine with hardware virtualization, where the host has none: QEMU's TCG emulates AMD's.
//!
//! Its kernel is that of the image `tiny`, its system a disk with busybox and our programs. Process 1 is this very
//! program ([`init`]), which speaks the protocol of the guests' agent over ports of a virtio console: programs,
//! their streams and their ends, and copies, come through as they do with `donjon exec` and `donjon cp`.

mod bridge;
mod contents;
mod disk;
pub mod init;
mod libraries;
mod machine;
mod names;
mod root;

use crate::command::{cargo, run};
use crate::prerequisites::{QEMU, need};
use anyhow::{Context, Result, anyhow, bail};
use donjon_agent_client::protocol::{Exec, Terminal};
use donjon_agent_client::{Client, CopyOptions, Local, terminal_size};
use machine::{Machine, Spec};
use names::{Copied, Peer};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// How long the machine may take to answer first: ten times what a busy host of two cores needs.
const BOOT: Duration = Duration::from_secs(120);
/// How often its socket is looked for.
const PAUSE: Duration = Duration::from_millis(20);
/// Variables of this process that the program gets, too.
const PASSED: [&str; 3] = ["RUST_BACKTRACE", "RUST_LOG", "TERM"];

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
    need(QEMU)?;
    if !args.no_build {
        build()?;
    }
    let kernel = root::kernel()?;
    let extra = root::Extra {
        peers: &args.peer,
        programs: &[],
    };
    let spec = Spec {
        cpus: args.cpus,
        memory: args.memory.clone(),
        icount: args.icount,
        root: root::disk(&kernel, &extra)?,
        kernel: kernel.kernel,
        images: args.image.as_deref().map(root::images_disk).transpose()?,
        disks: args.disk.clone(),
        ports: args.put.len() + 1 + args.get.len() + usize::from(!args.disk.is_empty()),
    };
    let machine = Machine::start(&spec, args.timeout.map(Duration::from_secs))?;
    let done = converse(args, &machine);
    if machine.timed_out() {
        bail!("the lab was ended after {} s", args.timeout.unwrap_or_default());
    }
    // If it is there no more, or never was, that says why.
    done.map_err(|error| match machine.last_words() {
        words if machine.is_alive() || words.is_empty() => error,
        words => anyhow!("{error:#}\nThe lab's kernel has said:\n{words}"),
    })
}

/// Builds the programs that the lab has.
fn build() -> Result<()> {
    let mut words = vec!["build", "--release", "--quiet"];
    words.extend(
        root::PROGRAMS
            .iter()
            .flat_map(|(package, _)| ["--package", package]),
    );
    run(&mut cargo(&words))
}

/// Copies, runs and copies back.
fn converse(args: &Args, machine: &Machine) -> Result<u8> {
    let mut ports = 1..;
    let mut next = || connect(machine, ports.next().unwrap_or_default());
    for Copied { host, lab } in &args.put {
        next()?
            .copy_in(host, lab, CopyOptions::default())
            .with_context(|| format!("cannot copy {} to {lab} in the lab", host.display()))?;
    }
    let exec = Exec {
        argv: args.command.clone(),
        env: environment(),
        cwd: None,
        user: None,
        terminal: args.tty.then(terminal).transpose()?,
        stdin: args.interactive,
    };
    let session = next()?.exec(&exec)?;
    let exit = session.attach(Local::stdio(args.interactive)?, args.tty)?;
    for Copied { host, lab } in &args.get {
        next()?
            .copy_out(lab, host, CopyOptions::default())
            .with_context(|| format!("cannot copy {lab} of the lab to {}", host.display()))?;
    }
    if !args.disk.is_empty() {
        let sync = Exec {
            argv: vec!["sync".into()],
            terminal: None,
            stdin: false,
            ..exec
        };
        next()?.exec(&sync)?.output(0)?;
    }
    Ok(exit.code())
}

/// The agent at a port, as soon as there is a socket.
fn connect(machine: &Machine, port: usize) -> Result<Client> {
    let until = Instant::now() + BOOT;
    let socket = machine.socket(port);
    while !socket.exists() {
        if !machine.is_alive() || Instant::now() > until {
            bail!("QEMU has not started");
        }
        thread::sleep(PAUSE);
    }
    Ok(Client::new(socket).with_patience(BOOT))
}

fn environment() -> Vec<(String, String)> {
    let own = PASSED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    own.chain([("XDG_RUNTIME_DIR".to_owned(), "/run/user/0".to_owned())])
        .collect()
}

fn terminal() -> Result<Terminal> {
    let size = terminal_size(std::io::stdin()).context("-t needs a terminal as standard input")?;
    Ok(Terminal {
        size,
        term: std::env::var("TERM").unwrap_or_else(|_| "linux".into()),
    })
}
