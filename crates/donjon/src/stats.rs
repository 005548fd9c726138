//! `donjon stats` and `donjon ps`.

use crate::cli::{Format, StatsArgs, exit};
use crate::control::run_directory;
use crate::failure::Failure;
use crate::figures;
use donjon_control::{AskError, Command, Info, Stats, ask};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

/// Time between two readings.
const PERIOD: Duration = Duration::from_secs(1);

/// Prints what a running domain does.
pub fn stats(args: &StatsArgs) -> Result<u8, Failure> {
    let directory = run_directory()?;
    let name = directory.find(args.name.as_deref().unwrap_or_default())?;
    let socket = directory.socket(&name);
    let mut shown = false;
    loop {
        let stats: Stats = match ask(&socket, &Command::Stats) {
            // What was watched has ended.
            Err(AskError::Gone) if shown => return Ok(exit::SUCCESS),
            other => other.map_err(|e| {
                Failure::with_hint(anyhow::anyhow!("{name}: {e}"), "see which domains run: donjon ps")
            })?,
        };
        let text = match args.format {
            Format::Json => serde_json::to_string(&stats)? + "\n",
            Format::Table => table(&stats),
        };
        let clear = args.watch && args.format == Format::Table && io::stdout().is_terminal();
        if !print(&[if clear { "\x1b[H\x1b[2J" } else { "" }, &text].concat())? || !args.watch {
            return Ok(exit::SUCCESS);
        }
        shown = true;
        std::thread::sleep(PERIOD);
    }
}

fn table(stats: &Stats) -> String {
    let d = &stats.domain;
    format!(
        "{}: process {}, engine {}, up {:.1} s\n{}",
        d.name,
        d.pid,
        d.engine,
        d.uptime_seconds,
        figures::tables(&stats.vcpus, &stats.total)
    )
}

/// Prints which domains run.
pub fn ps() -> Result<u8, Failure> {
    let directory = run_directory()?;
    let names = directory.running()?;
    let width = names
        .iter()
        .map(|n| n.as_str().len())
        .chain([4])
        .max()
        .unwrap_or(4);
    let mut text = format!(
        "{:<width$}  {:>8}  vCPUs  memory      up s  engine\n",
        "name", "process"
    );
    for name in names {
        // It may have ended since.
        let Ok(info) = ask::<Info>(&directory.socket(&name), &Command::Info) else {
            continue;
        };
        text += &format!(
            "{name:<width$}  {:>8}  {:>5}  {:>5}M  {:>8.1}  {}\n",
            info.pid,
            info.cpus,
            info.memory >> 20,
            info.uptime_seconds,
            info.engine
        );
    }
    print(&text)?;
    Ok(exit::SUCCESS)
}

/// Prints on standard output; `false` if nobody reads it any more.
fn print(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e),
    }
}
