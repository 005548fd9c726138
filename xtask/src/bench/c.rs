//! Programs of ours for guests, in C.

use crate::command::{root, shown};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The compiler, in the sources' directory, so that paths of this host get into nothing. Directories are named
/// from the workspace's root.
pub fn gcc(directory: &str, options: &[&str], target: &Path) -> Command {
    let mut c = Command::new("gcc");
    c.current_dir(root().join(directory));
    c.args(["-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE"])
        .args(options)
        .arg("-o")
        .arg(target);
    c
}

/// The names of all sources in C, sorted: the same program from each checkout.
pub fn sources(directory: &str) -> Result<BTreeSet<String>> {
    let directory = root().join(directory);
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Result<BTreeSet<_>> = names.collect();
    Ok(names?.into_iter().filter(|name| name.ends_with(".c")).collect())
}

/// What a program prints; an error if it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command
        .output()
        .with_context(|| format!("cannot start: {line}"))?;
    if !output.status.success() {
        bail!(
            "{} from: {line}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
