//! `conformance`: checks a CPU engine against the processor it runs on.
#![forbid(unsafe_code)]

mod lockstep_command;

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use donjon_conformance::case::Mode;
use donjon_conformance::forms::{self, Form, Named};
use donjon_conformance::program::run::Kind;
use donjon_conformance::suite::{self, Options, Summary};
use donjon_conformance::{engines, native, program, replay, system};
use donjon_engine::Engine;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Runs random instructions on a CPU engine and on the host's processor, and compares what they did.
#[derive(Parser)]
struct Arguments {
    /// Programs of a few instructions instead of single ones
    #[arg(long, group = "what")]
    blocks: bool,
    /// Programs with loops, calls and jumps
    #[arg(long, group = "what")]
    programs: bool,
    /// Programs of a kernel, run by the interpreter and by --engine, or both other engines
    #[arg(long, group = "what")]
    system: bool,
    /// A booting Linux, every unit of translated code interpreted as well (--engine soft translates what is
    /// hot, without it everything is translated)
    #[arg(long, group = "what")]
    lockstep: bool,
    #[command(flatten)]
    guest: lockstep_command::Guest,
    /// How many cases to run [default: 1000000 instructions, 100000 blocks, 10000 programs of either kind]
    #[arg(long)]
    cases: Option<u64>,
    /// Number of the first program
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The engine to check: soft, or soft,interpreter or soft,translator for that half of it alone
    #[arg(long)]
    engine: Option<String>,
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
    if arguments.lockstep {
        return arguments.guest.run(arguments.engine.as_deref());
    }
    native::crash::install();
    let forms: Vec<Form> = Mode::ALL.iter().flat_map(|&m| forms::all(m)).collect();
    if arguments.list {
        list(&forms);
        return Ok(ExitCode::SUCCESS);
    }
    let name = arguments.engine.as_deref().unwrap_or("soft");
    let engine = engine(name)?;
    let kind = match (arguments.blocks, arguments.programs) {
        (true, _) => Some(Kind::Blocks),
        (_, true) => Some(Kind::Programs),
        _ => None,
    };
    if arguments.cases == Some(0) {
        bail!("--cases must not be 0");
    }
    if arguments.system {
        return kernels(&arguments);
    }
    if let Some(kind) = kind {
        return many(&*engine, name, kind, &arguments);
    }
    if let Some(what) = &arguments.replay {
        let same = replay::run(&*engine, MODEL, &forms, what, arguments.mode).map_err(|e| anyhow!(e))?;
        return Ok(if same {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let pattern = match (arguments.forms, arguments.mode) {
        (Some(f), Some(m)) => Some(format!("{f}@{m}")),
        (None, Some(m)) => Some(format!("@{m}")),
        (f, None) => f,
    };
    let options = Options {
        seed: arguments.seed,
        cases: arguments.cases.unwrap_or(1_000_000),
        jobs: arguments.jobs,
        pattern,
        skip: arguments.skip,
        keep_going: arguments.keep_going,
        reports: arguments.reports,
    };
    let summary = suite::run(&*engine, MODEL, &forms, &options)
        .map_err(|e| anyhow!(e))
        .with_context(|| format!("engine {name}"))?;
    print(name, &forms, &options, &summary);
    Ok(if summary.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Blocks or programs.
fn many(
    engine: &dyn Engine,
    engine_name: &str,
    kind: Kind,
    arguments: &Arguments,
) -> anyhow::Result<ExitCode> {
    let code = |ok| if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if let Some(what) = &arguments.replay {
        let (seed, index) = case_number(what)?;
        let same = program::replay(engine, MODEL, kind, seed, index).map_err(|e| anyhow!(e))?;
        return Ok(code(same));
    }
    let (name, default) = match kind {
        Kind::Blocks => ("blocks", 100_000),
        Kind::Programs => ("programs", 10_000),
    };
    let options = program::run::Options {
        kind,
        seed: arguments.seed,
        first: arguments.first,
        cases: arguments.cases.unwrap_or(default),
        jobs: arguments.jobs,
        keep_going: arguments.keep_going,
    };
    let s = program::run::run(engine, MODEL, &options).map_err(|e| anyhow!(e))?;
    for (_, report) in &s.mismatches {
        println!("MISMATCH\n{report}");
    }
    println!(
        "engine {engine_name}: {} {name}, seed {}, {:.1} s; {} ended in a fault, {} never; {:.1} million instructions",
        s.cases,
        options.seed,
        s.elapsed.as_secs_f64(),
        s.faults,
        s.endless,
        s.instructions as f64 / 1e6
    );
    println!("mismatches: {}", s.mismatches.len());
    Ok(code(s.passed()))
}

/// Programs of a kernel, engine against engine.
fn kernels(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let code = |ok| if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let names = match &arguments.engine {
        Some(name) => vec![FIRST, name],
        None => vec![FIRST, "soft,translator", "soft"],
    };
    let boxes = names
        .iter()
        .map(|n| engine(n))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let engines: Vec<(String, &dyn Engine)> = names
        .iter()
        .map(|n| n.to_string())
        .zip(boxes.iter().map(|e| &**e))
        .collect();
    if let Some(what) = &arguments.replay {
        let (seed, index) = case_number(what)?;
        return Ok(code(
            system::run::replay(&engines, MODEL, seed, index).map_err(|e| anyhow!(e))?,
        ));
    }
    let options = system::run::Options {
        seed: arguments.seed,
        first: arguments.first,
        cases: arguments.cases.unwrap_or(10_000),
        jobs: arguments.jobs,
        keep_going: arguments.keep_going,
    };
    let s = system::run::run(&engines, MODEL, &options).map_err(|e| anyhow!(e))?;
    for (_, report) in &s.mismatches {
        println!("MISMATCH\n{report}");
    }
    println!(
        "{} kernel programs, seed {}, {:.1} s; {} events, {} interrupts, {} stopped, {} endless; {:.1} million instructions",
        s.cases,
        options.seed,
        s.elapsed.as_secs_f64(),
        s.events,
        s.interrupts,
        s.stopped,
        s.endless,
        s.instructions as f64 / 1e6
    );
    println!("mismatches: {}", s.mismatches.len());
    Ok(code(s.passed()))
}

/// The engine whose kernels are right.
const FIRST: &str = "soft,interpreter";

fn engine(name: &str) -> anyhow::Result<Box<dyn Engine>> {
    engines::named(name).ok_or_else(|| anyhow!("no engine {name:?}; there is: {}", engines::NAMES.join(", ")))
}

/// SEED:INDEX.
fn case_number(what: &str) -> anyhow::Result<(u64, u64)> {
    let (seed, index) = what.split_once(':').context("not SEED:INDEX")?;
    Ok((seed.parse()?, index.parse()?))
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
