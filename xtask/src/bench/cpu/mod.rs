//! `cargo xtask bench cpu`: the same pieces of work on the host itself, in donjon and in QEMU's TCG.

mod compare;
mod initramfs;
mod newc;
mod programs;
mod report;
mod table;

use super::guest::{self, COMMAND_LINE, Guest};
use super::statistics::median;
use super::watch::{tail, watch};
use crate::command::{shown, target_dir};
use crate::prerequisites::{self, QEMU, need};
use anyhow::{Result, bail};
use compare::compare;
use donjon_host::images;
use donjon_host::progress::Console;
use programs::Programs;
use report::Report;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

/// How far the guest's clock may be from the host's: this part of it, and a constant for the console's delay.
const CLOCK_ERROR: (f64, f64) = (0.05, 0.25);

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

/// It goes through a kernel's command line.
fn words(text: &str) -> Result<String, String> {
    let proper = |c: char| c.is_ascii_alphanumeric() || "/-,".contains(c);
    if text.chars().all(proper) && text.split(',').all(|word| !word.is_empty()) {
        Ok(text.into())
    } else {
        Err("parts of names of rows, separated by commas, such as integer,memcpy".into())
    }
}

/// Something the rows run on.
struct Machine<'a> {
    name: &'static str,
    command: Box<dyn Fn() -> Command + 'a>,
    reports: Vec<Report>,
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
        programs.check_words(words)?;
    }
    let initrd = directory.join("initrd");
    initramfs::write(&initrd, &programs)?;
    guest::build_donjon()?;

    // What the kernel does not know goes into init's environment. Without an init it resets, and that ends it.
    let words = args
        .rows
        .as_ref()
        .map(|w| format!(" {}={w}", programs::WORDS))
        .unwrap_or_default();
    let guest = Guest {
        kernel: image.kernel,
        initrd,
        command_line: format!("{COMMAND_LINE} panic=-1 rdinit={}{words}", initramfs::INIT),
        memory: 1024,
        cpus: args.cpus,
    };
    let machine = |name, command| Machine {
        name,
        command,
        reports: vec![],
    };
    let mut machines = vec![
        machine(
            "native",
            Box::new(|| programs.command(args.rows.as_deref())) as Box<dyn Fn() -> Command>,
        ),
        machine(
            "donjon",
            Box::new(|| {
                let mut c = guest.donjon();
                c.args(args.donjon_args.iter().flat_map(|a| a.split_whitespace()));
                c
            }),
        ),
    ];
    if !args.no_tcg {
        machines.push(machine(
            "tcg",
            Box::new(|| {
                let mut c = guest.tcg();
                // The default has no AVX.
                c.args(["-cpu", "max"]);
                c
            }),
        ));
    }

    let mut mips = vec![];
    for n in 1..=args.runs {
        print!("run {n}:");
        for machine in &mut machines {
            // A minute may pass before the next word.
            std::io::stdout().flush()?;
            // The error gets a line of its own.
            let (report, took, errors) = measure((machine.command)()).inspect_err(|_| println!())?;
            print!(" {} {:.1} s", machine.name, took.as_secs_f64());
            machine.reports.push(report);
            mips.extend(guest::mips(&errors));
        }
        println!();
    }
    let reports: Vec<_> = machines.iter().map(|m| (m.name, &m.reports[..])).collect();
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

/// One run of all rows; the time that everything took, and what was said on standard error.
fn measure(command: Command) -> Result<(Report, Duration, String)> {
    let line = shown(&command);
    let (mut begin, mut end) = (None, None);
    let ended = watch(command, |seen, elapsed, _| {
        if begin.is_none() && report::has_begun(seen) {
            begin = Some(elapsed);
        }
        if end.is_none() && report::has_ended(seen) {
            end = Some(elapsed);
        }
        Ok(())
    })?;
    let report = Report::parse(&ended.output);
    let (Some(begin), Some(end), Some(claimed)) = (begin, end, report.seconds) else {
        bail!(
            "the rows did not run to their end in: {line}\n{}\n{}",
            tail(&ended.output),
            ended.errors
        );
    };
    // A clock that is slow makes a guest look fast.
    let passed = (end - begin).as_secs_f64();
    if (passed - claimed).abs() > passed * CLOCK_ERROR.0 + CLOCK_ERROR.1 {
        bail!("no time can be trusted: {claimed:.2} s by the clock in there were {passed:.2} s, in: {line}");
    }
    Ok((report, ended.took, ended.errors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parts_of_names() {
        assert_eq!(words("integer/,x87").as_deref(), Ok("integer/,x87"));
        for wrong in ["", "a,", "a b", "a=b", "\"a"] {
            assert!(words(wrong).is_err(), "{wrong:?}");
        }
    }
}
