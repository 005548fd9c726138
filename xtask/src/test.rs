//! `cargo xtask test`.

use crate::command::{cargo, run};
use crate::steps::Steps;
use crate::{fuzz, lab, nextest, portable, prerequisites};
use anyhow::Result;

/// Cases of the conformance run in CI.
const CASES: u64 = 1_000_000;
/// Seconds for each fuzz target in CI.
const FUZZ_SECONDS: u64 = 10;

#[derive(clap::Args)]
pub struct Args {
    /// Only what takes seconds: no guests, no conformance run, no fuzzing.
    #[arg(long)]
    quick: bool,
    /// Instead of all that, the tests that need hardware virtualization, in the lab.
    #[arg(long, conflicts_with = "quick")]
    lab: bool,
    /// Cases of the conformance run.
    #[arg(long, default_value_t = CASES)]
    cases: u64,
    /// Seconds for each fuzz target.
    #[arg(long, default_value_t = FUZZ_SECONDS)]
    fuzz_seconds: u64,
}

/// Everything that must pass.
pub fn test(args: &Args) -> Result<()> {
    let mut steps = Steps::default();
    if args.lab {
        steps.step("tests in the lab", |_| lab::test());
        return steps.finish();
    }
    // Without these nothing else means anything.
    if !steps.step("install what is missing", |_| prerequisites::install()) {
        return steps.finish();
    }
    steps.step("format", |_| {
        run(&mut cargo(&["fmt", "--all", "--check"]))?;
        run(&mut cargo(&[
            "fmt",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--check",
        ]))
    });
    steps.step("clippy", |_| {
        run(&mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]))
    });
    steps.step("a host that is not x86-64", portable::check);
    steps.step("dependencies", |_| {
        run(&mut cargo(&[
            "deny",
            "--log-level",
            "error",
            "check",
            "bans",
            "licenses",
            "sources",
        ]))
    });
    steps.step("documentation", |_| {
        run(cargo(&[
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
            "--quiet",
        ])
        .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"))
    });
    steps.step("examples in documentation", |_| {
        run(&mut cargo(&["test", "--workspace", "--doc", "--quiet"]))
    });
    steps.step("tests", |notes| nextest::run(args.quick, notes));
    if !args.quick {
        steps.step("conformance", |_| {
            let program = [
                "run",
                "--release",
                "--quiet",
                "--package",
                "donjon-conformance",
                "--",
            ];
            let conformance = |arguments: &[&str]| run(&mut cargo(&[&program[..], arguments].concat()));
            // Each of the two engines gets half; what they run is not the same.
            let half = (args.cases / 2).max(1).to_string();
            for (engine, seed) in [("soft,interpreter", "1"), ("soft,translator", "2")] {
                conformance(&["--cases", &half, "--engine", engine, "--seed", seed])?;
                conformance(&["--blocks", "--engine", engine, "--seed", seed])?;
                conformance(&["--programs", "--engine", engine, "--seed", seed])?;
            }
            // Hot code only: the two in turn.
            conformance(&["--programs"])?;
            conformance(&["--system"])?;
            // A whole Debian, compared unit by unit, and as units lead to one another.
            conformance(&["--lockstep"])?;
            conformance(&["--lockstep", "--chains", "--engine", "soft"])
        });
        steps.step("tests in the lab", |_| lab::test());
        steps.step("fuzz", |_| fuzz::all(args.fuzz_seconds));
    }
    steps.finish()
}
