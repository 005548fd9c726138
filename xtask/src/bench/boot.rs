//! `cargo xtask bench boot`: how long a guest takes to come up and to go.

use super::debian::{self, Debian};
use super::guest::{self, COMMAND_LINE, Guest};
use super::statistics::median;
use super::watch::{Ended, tail, watch};
use crate::command::{shown, target_dir};
use crate::prerequisites::{QEMU, need};
use anyhow::{Result, bail};
use donjon_host::images;
use donjon_host::progress::Console;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// What the image's init prints first.
const FIRST_LINE: &str = "donjon: tiny image up";
/// What comes before the shell reads.
const PROMPT: &str = ":~# ";

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
    /// Boot a whole Debian, from start to somebody logged in on the console.
    #[arg(long, conflicts_with = "kernel")]
    debian: bool,
}

/// One boot.
struct Boot {
    /// From start to the first line of user space.
    up: Duration,
    /// From start to the end of the process.
    off: Duration,
    /// Guest instructions, in millions a second, if it tells.
    mips: Option<f64>,
}

/// Measures, and prints medians and their ratio.
pub fn boot(args: &Args) -> Result<()> {
    need(QEMU)?;
    guest::build_donjon()?;
    if args.debian {
        let debian = Debian::prepare(&target_dir().join("bench/debian"))?;
        let line = debian::FIRST_LINE;
        return compare(args.runs, line, &|| debian.donjon(), &|| debian.tcg());
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
    compare(args.runs, FIRST_LINE, &|| Ok(guest.donjon()), &|| Ok(guest.tcg()))
}

/// Boots both in turn.
fn compare(
    runs: usize,
    first_line: &str,
    donjon: &dyn Fn() -> Result<Command>,
    tcg: &dyn Fn() -> Result<Command>,
) -> Result<()> {
    let (mut ours, mut theirs) = (vec![], vec![]);
    for n in 1..=runs {
        let (a, b) = (measure(donjon()?, first_line)?, measure(tcg()?, first_line)?);
        println!(
            "run {n}: donjon up {:.3} s, off {:.3} s; tcg up {:.3} s, off {:.3} s",
            a.up.as_secs_f64(),
            a.off.as_secs_f64(),
            b.up.as_secs_f64(),
            b.off.as_secs_f64()
        );
        ours.push(a);
        theirs.push(b);
    }
    for (what, time) in [
        (first_line, (|b| b.up) as fn(&Boot) -> Duration),
        ("power-off", |b| b.off),
    ] {
        let seconds = |boots: &[Boot]| median(boots.iter().map(|b| time(b).as_secs_f64()).collect());
        let (a, b) = (seconds(&ours), seconds(&theirs));
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

fn measure(command: Command, first_line: &str) -> Result<Boot> {
    let line = shown(&command);
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
    let mips = guest::mips(&errors);
    Ok(Boot { up, off: took, mips })
}
