//! `donjon stats`.

use crate::cli::{Format, StatsArgs, exit};
use crate::control::run_directory;
use crate::failure::Failure;
use crate::figures;
use donjon_control::{AskError, Command, Stats, ask};
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

/// Prints on standard output; `false` if nobody reads it any more.
pub fn print(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e),
    }
}
