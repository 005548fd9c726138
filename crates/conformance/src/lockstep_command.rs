//! `conformance --lockstep`.

use anyhow::{Context, bail};
use donjon_conformance::lockstep::{self, Options, WORK};
use donjon_engine_soft::{Lockstep, Translation};
use donjon_host::{images, progress};
use std::path::PathBuf;
use std::process::ExitCode;

/// The guest, and how long it runs.
#[derive(clap::Args)]
#[command(next_help_heading = "With --lockstep")]
pub struct Guest {
    /// Instructions to compare, such as 500M
    #[arg(long, default_value = "500M", value_parser = count)]
    instructions: u64,
    /// A bzImage or vmlinux [default: the built-in image, with work for its shell]
    #[arg(long)]
    kernel: Option<PathBuf>,
    /// An initial file system for it
    #[arg(long, requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, default_value = "console=ttyS0 quiet panic=-1")]
    append: String,
    /// MiB of RAM
    #[arg(long, default_value_t = 256)]
    memory: u64,
    /// Let translated units lead to one another, as they do outside of tests, and compare when they stop
    #[arg(long)]
    chains: bool,
    /// Show the guest's console
    #[arg(long)]
    console: bool,
}

/// A number with K, M or G behind it.
fn count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1_000),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let n: u64 = digits.parse().map_err(|e| format!("{e}"))?;
    n.checked_mul(factor).ok_or_else(|| "too many".into())
}

impl Guest {
    /// Runs it.
    pub fn run(self, engine: Option<&str>) -> anyhow::Result<ExitCode> {
        let translation = match engine {
            Some("soft") => Translation::Hot,
            Some("soft,translator") | None => Translation::Always,
            Some(other) => bail!("--lockstep is for --engine soft or soft,translator, not {other}"),
        };
        let (kernel, initrd, input) = match self.kernel {
            Some(kernel) => (kernel, self.initrd, ""),
            None => {
                let image = images::tiny(&progress::Console::new()).context("no kernel to run")?;
                (image.kernel, Some(image.initrd), WORK)
            }
        };
        let outcome = lockstep::run(&Options {
            instructions: self.instructions,
            lockstep: if self.chains {
                Lockstep::Chains
            } else {
                Lockstep::Units
            },
            translation,
            kernel,
            initrd,
            append: self.append,
            memory: self.memory << 20,
            model: super::MODEL.into(),
            input: input.into(),
            show: self.console,
        })?;
        if let Some(what) = &outcome.mismatch {
            println!("MISMATCH\n{what}");
        }
        println!(
            "lockstep: {}; {:.1} million instructions compared in {:.1} s, {:.1} million a second",
            outcome.end,
            outcome.instructions as f64 / 1e6,
            outcome.busy.as_secs_f64(),
            outcome.mips()
        );
        let s = &outcome.statistics;
        println!(
            "{:.1} million of them ran in {} units, entered {:.1} million times",
            s.translated.unwrap_or(0) as f64 / 1e6,
            s.translator.units,
            s.translator.entries as f64 / 1e6
        );
        println!("mismatches: {}", outcome.mismatch.is_some() as u32);
        let passed = outcome.mismatch.is_none() && outcome.instructions >= self.instructions;
        Ok(if passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
