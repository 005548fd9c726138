//! `cargo xtask bench boot`: how long a guest takes to come up and to go.

use super::debian::{self, Debian};
use super::guest::{self, COMMAND_LINE, Guest};
use super::statistics::median;
use super::watch::{Ended, LIMIT, tail, watch};
use crate::command::{shown, target_dir};
use crate::prerequisites::{QEMU, need};
use anyhow::{Context, Result, bail, ensure};
use donjon_agent_client::Client;
use donjon_agent_client::protocol::Exec;
use donjon_host::images;
use donjon_host::progress::Console;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the image's init prints first.
const FIRST_LINE: &str = "donjon: tiny image up";
/// What comes before the shell reads.
const PROMPT: &str = ":~# ";
/// The row of a program that the agent runs.
const EXEC: &str = "exec";
/// How long the agent may take to say hello before another connection is tried: one that came too early is answered
/// by nobody.
const PATIENCE: Duration = Duration::from_secs(1);

/// Its arguments.
#[derive(clap::Args)]
pub struct Args {
    /// Runs of each.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Boot this kernel instead of the image's.
    #[arg(long, requires = "initrd")]
    kernel: Option<PathBuf>,
    /// With this initrd; its init must print the image's first line.
    #[arg(long, requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Boot a whole Debian, from start to a program run by the agent and to somebody logged in on the console.
    #[arg(long, conflicts_with = "kernel")]
    debian: bool,
}

/// One boot.
struct Boot {
    /// From start to the end of a program that the agent runs, if there is one.
    exec: Option<Duration>,
    /// From start to the first line of user space.
    up: Duration,
    /// From start to the end of the process.
    off: Duration,
    /// Guest instructions, in millions a second, if it tells.
    mips: Option<f64>,
}

/// A time of a boot, if it has that.
type Time = fn(&Boot) -> Option<Duration>;

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(exec) = self.exec {
            write!(f, "exec {:.3} s, ", exec.as_secs_f64())?;
        }
        let (up, off) = (self.up.as_secs_f64(), self.off.as_secs_f64());
        write!(f, "up {up:.3} s, off {off:.3} s")
    }
}

/// Measures, and prints medians and their ratio.
pub fn boot(args: &Args) -> Result<()> {
    need(QEMU)?;
    guest::build_donjon()?;
    if args.debian {
        let debian = Debian::prepare(&target_dir().join("bench/debian"))?;
        let vsock = debian.vsock();
        if vsock.is_none() {
            println!(
                "left out: {EXEC}, which QEMU needs {0} for: cargo install --locked {0}",
                debian::VSOCK
            );
        }
        let line = debian::FIRST_LINE;
        return compare(args.runs, line, vsock, &|| debian.donjon(), &|| debian.tcg());
    }
    let (kernel, initrd) = match (&args.kernel, &args.initrd) {
        (Some(kernel), Some(initrd)) => (kernel.clone(), initrd.clone()),
        _ => {
            let image = images::tiny(&Console::new())?;
            println!("image: {}", image.version);
            (image.kernel, image.initrd)
        }
    };
    let guest = Guest {
        kernel,
        initrd,
        command_line: COMMAND_LINE.into(),
        memory: 512,
        cpus: 1,
    };
    compare(args.runs, FIRST_LINE, None, &|| Ok(guest.donjon()), &|| {
        Ok(guest.tcg())
    })
}

/// Boots both in turn. If there is a `vsock`, an agent is behind it.
fn compare(
    runs: usize,
    first_line: &str,
    vsock: Option<&Path>,
    donjon: &dyn Fn() -> Result<Command>,
    tcg: &dyn Fn() -> Result<Command>,
) -> Result<()> {
    let (mut ours, mut theirs) = (vec![], vec![]);
    for n in 1..=runs {
        let a = measure(donjon()?, first_line, vsock)?;
        let b = measure(tcg()?, first_line, vsock)?;
        println!("run {n}: donjon {a}; tcg {b}");
        ours.push(a);
        theirs.push(b);
    }
    let rows: [(&str, Time); 3] = [
        (EXEC, |b| b.exec),
        (first_line, |b| Some(b.up)),
        ("power-off", |b| Some(b.off)),
    ];
    for (what, time) in rows {
        let seconds = |boots: &[Boot]| {
            let times: Vec<_> = boots.iter().filter_map(time).collect();
            (!times.is_empty()).then(|| median(times.iter().map(Duration::as_secs_f64).collect()))
        };
        let (Some(a), Some(b)) = (seconds(&ours), seconds(&theirs)) else {
            continue;
        };
        println!(
            "{what}: donjon {a:.3} s, tcg {b:.3} s, ratio {:.2} (medians of {})",
            a / b,
            runs
        );
    }
    let mips: Vec<_> = ours.iter().filter_map(|b| b.mips).collect();
    if !mips.is_empty() {
        println!("donjon: {:.1} million guest instructions a second", median(mips));
    }
    Ok(())
}

fn measure(command: Command, first_line: &str, vsock: Option<&Path>) -> Result<Boot> {
    let line = shown(&command);
    let exec = vsock.map(exec);
    let (mut up, mut told) = (None, false);
    let Ended { took, output, errors } = watch(command, |seen, elapsed, stdin| {
        if up.is_none() && seen.contains(first_line) {
            up = Some(elapsed);
        }
        // Only now: a guest that is not reading yet may lose what is typed.
        if !told && up.is_some() && seen.contains(PROMPT) {
            stdin.write_all(b"poweroff\n")?;
            told = true;
        }
        Ok(())
    })?;
    let Some(up) = up else {
        bail!("no {first_line:?} from: {line}\n{}\n{errors}", tail(&output));
    };
    let exec = exec.map(|t| t.join().expect("no panic")).transpose();
    Ok(Boot {
        exec: exec.with_context(|| format!("no program was run by the agent of: {line}"))?,
        up,
        off: took,
        mips: guest::mips(&errors),
    })
}

/// Runs a program in a guest that is being started, as soon as its agent is there; the time from now to its end.
fn exec(vsock: &Path) -> JoinHandle<Result<Duration>> {
    let start = Instant::now();
    let agent = Client::new(vsock).with_patience(PATIENCE);
    std::thread::spawn(move || {
        agent.wait_ready(LIMIT)?;
        let program = Exec {
            argv: vec!["true".into()],
            env: vec![],
            cwd: None,
            user: None,
            terminal: None,
            stdin: false,
        };
        let (exit, ..) = agent.exec(&program)?.output(0)?;
        ensure!(exit.code() == 0, "the program failed: {exit}");
        Ok(start.elapsed())
    })
}
