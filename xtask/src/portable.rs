//! Hosts that are not x86-64: the software CPU has to build there, without its translator.

use crate::command::{cargo, command, run, succeeds};
use anyhow::Result;

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Checks it, or notes why not.
pub fn check(notes: &mut Vec<String>) -> Result<()> {
    if !has_target() {
        // Needs rustup and a network, which not every host has.
        let added = run(&mut command("rustup", &["target", "add", TARGET]));
        if added.is_err() || !has_target() {
            notes.push(format!(
                "skipped: the check for {TARGET}; to have it: rustup target add {TARGET}"
            ));
            return Ok(());
        }
    }
    run(&mut cargo(&[
        "clippy",
        "--package",
        "donjon-engine-soft",
        "--target",
        TARGET,
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))
}

/// Whether there is a standard library for it.
fn has_target() -> bool {
    let installed = "test -d \"$(rustc --print target-libdir --target \"$0\")\"";
    succeeds("sh", &["-c", installed, TARGET])
}
