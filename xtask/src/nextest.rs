//! The workspace's tests, through cargo-nextest.

use crate::command::{self, cargo, target_dir};
use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Crates whose tests are those of the crates that use them.
const WITHOUT_TESTS: [&str; 1] = ["xtask"];
/// What a test prints that could not run.
const SKIPPED: &str = "SKIPPED";

fn arguments(quick: bool) -> Vec<&'static str> {
    let mut args = vec![
        "nextest",
        "run",
        "--workspace",
        "--profile",
        "ci",
        "--no-tests",
        "fail",
    ];
    if quick {
        args.extend(["--filterset", "not (package(donjon) and kind(test))"]);
    }
    args
}

/// Runs them; `notes` hears of tests that skipped themselves.
pub fn run(quick: bool, notes: &mut Vec<String>) -> Result<()> {
    every_crate_has_tests()?;
    let report = target_dir().join("nextest/ci/junit.xml");
    let _ = std::fs::remove_file(&report);
    let done = command::run(&mut cargo(&arguments(quick)));
    let report = std::fs::read_to_string(&report).unwrap_or_default();
    notes.extend(
        report
            .lines()
            .filter(|l| l.contains(SKIPPED))
            .map(|l| l.trim().to_owned()),
    );
    done
}

/// A suite that collects nothing passes without a sound; so count first.
fn every_crate_has_tests() -> Result<()> {
    let output = cargo(&["nextest", "list", "--workspace", "--message-format", "json"])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("the tests do not build: cargo nextest list --workspace");
    }
    let list: Value = serde_json::from_slice(&output.stdout).context("cannot read nextest's list")?;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for suite in list["rust-suites"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(_, s)| s)
    {
        let package = suite["package-name"].as_str().unwrap_or("?");
        let tests = suite["testcases"].as_object().map_or(0, |t| t.len());
        // An integration test's file has no other reason to be there.
        if suite["kind"] == "test" && tests == 0 {
            bail!("no tests in {}", suite["binary-id"]);
        }
        *counts.entry(package.into()).or_default() += tests;
    }
    let empty: Vec<_> = counts
        .iter()
        .filter(|(p, n)| **n == 0 && !WITHOUT_TESTS.contains(&p.as_str()))
        .map(|(p, _)| &p[..])
        .collect();
    if !empty.is_empty() {
        bail!("no tests in: {}", empty.join(", "));
    }
    println!(
        "{} tests in {} crates",
        counts.values().sum::<usize>(),
        counts.len()
    );
    Ok(())
}
