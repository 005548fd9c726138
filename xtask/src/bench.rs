//! `cargo xtask bench boot`: donjon beside QEMU's TCG, on the same kernel and initramfs, in one run.

use crate::command::{cargo, command, run, target_dir};
use crate::prerequisites::{QEMU, need};
use anyhow::{Context, Result, bail};
use donjon_host::images;
use donjon_host::progress::Console;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What the image's init prints first.
const FIRST_LINE: &str = "donjon: tiny image up";
/// What comes before the shell reads.
const PROMPT: &str = ":~# ";
/// What `donjon run` says to this kernel by default.
const COMMAND_LINE: &str = "console=ttyS0 quiet cryptomgr.notests";
/// A guest that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(300);

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

/// Measures, and prints medians and their ratio. Nothing is asserted: machines differ.
pub fn boot(args: &Args) -> Result<()> {
    need(QEMU)?;
    run(&mut cargo(&[
        "build",
        "--release",
        "--quiet",
        "--package",
        "donjon",
    ]))?;
    let (kernel, initrd) = match (&args.kernel, &args.initrd) {
        (Some(kernel), Some(initrd)) => (kernel.clone(), initrd.clone()),
        _ => {
            let image = images::tiny(&Console::new())?;
            println!("image: {}", image.version);
            (image.kernel, image.initrd)
        }
    };
    let files = |c: &mut Command, kernel_flag: &str, initrd_flag: &str, append_flag: &str| {
        c.arg(kernel_flag)
            .arg(&kernel)
            .arg(initrd_flag)
            .arg(&initrd)
            .args([append_flag, COMMAND_LINE]);
    };
    let donjon = || {
        let mut c = Command::new(target_dir().join("release/donjon"));
        c.args(["run", "--memory", "512M", "--cpus", "1", "--no-reboot", "--stats"]);
        files(&mut c, "--kernel", "--initrd", "--append");
        c
    };
    let tcg = || {
        let mut c = command(QEMU.0, &["-M", "q35", "-accel", "tcg", "-m", "512", "-smp", "1"]);
        c.args(["-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"]);
        files(&mut c, "-kernel", "-initrd", "-append");
        c
    };
    let (mut ours, mut theirs) = (vec![], vec![]);
    for n in 1..=args.runs {
        let (a, b) = (measure(donjon())?, measure(tcg())?);
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
        ("first user-space line", (|b| b.up) as fn(&Boot) -> Duration),
        ("power-off", |b| b.off),
    ] {
        let seconds = |boots: &[Boot]| median(boots.iter().map(|b| time(b).as_secs_f64()).collect());
        let (a, b) = (seconds(&ours), seconds(&theirs));
        println!(
            "{what}: donjon {a:.3} s, tcg {b:.3} s, ratio {:.2} (medians of {})",
            a / b,
            args.runs
        );
    }
    println!(
        "donjon: {:.1} million guest instructions a second",
        median(ours.iter().filter_map(|b| b.mips).collect())
    );
    Ok(())
}

fn measure(mut command: Command) -> Result<Boot> {
    let line = crate::command::shown(&command);
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start: {line}"))?;
    let (mut stdin, stdout) = (
        child.stdin.take().expect("piped"),
        child.stdout.take().expect("piped"),
    );
    let output = pieces(stdout);
    let (mut seen, mut up, mut told) = (String::new(), None, false);
    loop {
        match output.recv_timeout(LIMIT.saturating_sub(start.elapsed())) {
            Ok(piece) => seen += &String::from_utf8_lossy(&piece),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill()?;
                child.wait()?;
                bail!("no power-off within {} s from: {line}\n{seen}", LIMIT.as_secs());
            }
        }
        if up.is_none() && seen.contains(FIRST_LINE) {
            up = Some(start.elapsed());
        }
        // Only now: a guest that is not reading yet may lose what is typed.
        if !told && up.is_some() && seen.contains(PROMPT) {
            stdin.write_all(b"poweroff\n")?;
            told = true;
        }
    }
    let mut errors = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut errors)?;
    let status = child.wait()?;
    let off = start.elapsed();
    let Some(up) = up.filter(|_| status.success()) else {
        bail!("{status} from: {line}\n{seen}\n{errors}");
    };
    let mips = errors.lines().find_map(|l| {
        let (_, rest) = l.strip_prefix("total:")?.rsplit_once(", ")?;
        rest.strip_suffix(" MIPS")?.trim().parse().ok()
    });
    Ok(Boot { up, off, mips })
}

/// What `source` gives, as it comes.
fn pieces(mut source: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = source.read(&mut buffer)
            && sender.send(buffer[..n].to_vec()).is_ok()
        {}
    });
    receiver
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }
}
