//! `cargo xtask bench cpu`: the same pieces of work on the host itself, in donjon and in QEMU's TCG.

mod initramfs;
mod programs;
mod table;

use super::compare::compare;
use super::guest::{self, COMMAND_LINE, Guest};
use super::rows::{Machine, WORDS, alternate, check_words, words};
use super::statistics::median;
use crate::command::target_dir;
use crate::prerequisites::{self, QEMU, need};
use anyhow::{Result, bail};
use donjon_host::images;
use donjon_host::progress::Console;
use programs::Programs;

/// Its arguments.
#[derive(clap::Args)]
pub struct Args {
    /// Runs of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only rows whose names contain one of these words, separated by commas.
    #[arg(long, value_name = "WORDS", value_parser = words)]
    rows: Option<String>,
    /// Leave TCG out.
    #[arg(long)]
    no_tcg: bool,
    /// Virtual CPUs.
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// More arguments for `donjon run`, separated by spaces.
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    donjon_args: Option<String>,
}

/// Measures, and prints medians and their ratios. An error if any row went wrong anywhere.
pub fn cpu(args: &Args) -> Result<()> {
    prerequisites::need_c()?;
    if !args.no_tcg {
        need(QEMU)?;
    }
    let image = images::tiny(&Console::new())?;
    println!("image: {}", image.version);
    let directory = target_dir().join("bench/cpu");
    let programs = Programs::build(&directory.join("programs"), &image.initrd)?;
    if let Some(words) = &args.rows {
        check_words(words, &programs.list()?)?;
    }
    let initrd = directory.join("initrd");
    initramfs::write(&initrd, &programs)?;
    guest::build_donjon()?;

    // What the kernel does not know goes into init's environment. Without an init it resets, and that ends it.
    let words = args
        .rows
        .as_ref()
        .map(|w| format!(" {WORDS}={w}"))
        .unwrap_or_default();
    let guest = Guest {
        kernel: image.kernel,
        initrd,
        command_line: format!("{COMMAND_LINE} panic=-1 rdinit={}{words}", initramfs::INIT),
        memory: 1024,
        cpus: args.cpus,
    };
    let mut machines = vec![
        Machine::new("native", || Ok(programs.command(args.rows.as_deref()))),
        Machine::new("donjon", || {
            let mut c = guest.donjon();
            c.args(args.donjon_args.iter().flat_map(|a| a.split_whitespace()));
            Ok(c)
        }),
    ];
    if !args.no_tcg {
        machines.push(Machine::new("tcg", || {
            let mut c = guest.tcg();
            // The default has no AVX.
            c.args(["-cpu", "max"]);
            Ok(c)
        }));
    }
    let mut mips = vec![];
    alternate(&mut machines, args.runs, |errors| {
        mips.extend(guest::mips(errors))
    })?;
    let reports: Vec<_> = machines.iter().map(Machine::reports).collect();
    let compared = compare(&reports);
    print!("{}", table::table(&compared.rows, !args.no_tcg));
    if !mips.is_empty() {
        println!("donjon: {:.1} million guest instructions a second", median(mips));
    }
    for note in &compared.notes {
        println!("{note}");
    }
    if !compared.problems.is_empty() {
        bail!(
            "{} went wrong:\n  {}",
            compared.problems.len(),
            compared.problems.join("\n  ")
        );
    }
    Ok(())
}
