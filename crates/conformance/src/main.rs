//! `conformance`: checks a CPU engine against the processor it runs on.
#![forbid(unsafe_code)]

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use donjon_conformance::case::Mode;
use donjon_conformance::forms::{self, Form, Named};
use donjon_conformance::suite::{self, Options, Summary};
use donjon_conformance::{engines, replay};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Runs random instructions on a CPU engine and on the host's processor, and compares what they did.
#[derive(Parser)]
struct Arguments {
    /// How many cases to run
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The engine to check
    #[arg(long, default_value = "soft")]
    engine: String,
    /// Only forms whose name contains this, such as vaddps or add_rm32_r32@64
    #[arg(long)]
    forms: Option<String>,
    /// Leave out forms whose name contains this (may be given several times); they count as gaps
    #[arg(long)]
    skip: Vec<String>,
    /// Only this mode: 64, 32 or 16
    #[arg(long)]
    mode: Option<u32>,
    /// Threads; each also has a process that runs the host's side
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, |n| n.get()))]
    jobs: usize,
    /// Run one case again (SEED:INDEX), or an instruction's bytes in hex on many random states
    #[arg(long)]
    replay: Option<String>,
    /// Do not stop at the first mismatch
    #[arg(long)]
    keep_going: bool,
    /// Reports to print for each form
    #[arg(long, default_value_t = 1)]
    reports: usize,
    /// List the forms and why some are not compared, and run nothing
    #[arg(long)]
    list: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let forms: Vec<Form> = Mode::ALL.iter().flat_map(|&m| forms::all(m)).collect();
    if arguments.list {
        list(&forms);
        return Ok(ExitCode::SUCCESS);
    }
    let engine = engines::named(&arguments.engine).ok_or_else(|| {
        anyhow!(
            "no engine {:?}; there is: {}",
            arguments.engine,
            engines::NAMES.join(", ")
        )
    })?;
    if let Some(what) = &arguments.replay {
        let same = replay::run(&*engine, MODEL, &forms, what, arguments.mode).map_err(|e| anyhow!(e))?;
        return Ok(if same {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    if arguments.cases == 0 {
        bail!("--cases must not be 0");
    }
    let pattern = match (arguments.forms, arguments.mode) {
        (Some(f), Some(m)) => Some(format!("{f}@{m}")),
        (None, Some(m)) => Some(format!("@{m}")),
        (f, None) => f,
    };
    let options = Options {
        seed: arguments.seed,
        cases: arguments.cases,
        jobs: arguments.jobs,
        pattern,
        skip: arguments.skip,
        keep_going: arguments.keep_going,
        reports: arguments.reports,
    };
    let summary = suite::run(&*engine, MODEL, &forms, &options)
        .map_err(|e| anyhow!(e))
        .with_context(|| format!("engine {}", arguments.engine))?;
    print(&arguments.engine, &forms, &options, &summary);
    Ok(if summary.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The most capable guest model.
const MODEL: &str = "x86-64-v3";

fn print(engine: &str, forms: &[Form], options: &Options, s: &Summary) {
    for (label, group) in &s.groups {
        println!("MISMATCH {label}: {} of its cases", group.count);
        group.reports.iter().for_each(|r| println!("{}", r.text));
    }
    if options.pattern.is_none() {
        println!("not compared, or not in full:");
        named(forms);
    }
    for gap in s.gaps.iter().take(50) {
        println!("GAP {}: no case ran", gap.label());
    }
    let seconds = s.elapsed.as_secs_f64();
    println!(
        "engine {engine}: {} cases, seed {}, {:.1} s, {:.0} cases/s",
        s.cases,
        options.seed,
        seconds,
        s.cases as f64 / seconds
    );
    println!(
        "instruction forms covered: {} of {} (in full; the others are named above or by --list)",
        s.coverage.covered, s.coverage.implemented
    );
    let mismatches: u64 = s.groups.values().map(|g| g.count).sum();
    println!(
        "mismatches: {mismatches} in {} forms; gaps: {}",
        s.groups.len(),
        s.gaps.len()
    );
}

/// The named forms, by reason.
fn named(forms: &[Form]) {
    let mut by_reason: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for f in forms {
        if let Some(n) = f.named {
            let kind = if matches!(n, Named::NotRun(_)) {
                "not run"
            } else {
                "partly"
            };
            by_reason.entry((kind, n.reason())).or_default().push(f.label());
        }
    }
    for ((kind, reason), labels) in by_reason {
        println!("  {kind}: {reason}\n    {}", labels.join(" "));
    }
}

fn list(forms: &[Form]) {
    for f in forms {
        println!("{}  {}", f.label(), f.info().instruction_string());
    }
    named(forms);
}
