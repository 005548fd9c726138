//! The guest's user space: the programs, and an init that runs them.

use super::programs::Programs;
use crate::bench::newc::Archive;
use anyhow::{Context, Result};
use std::path::Path;

/// The first program, for `rdinit=`.
pub const INIT: &str = "/rows/init";

/// Writes it.
pub fn write(target: &Path, programs: &Programs) -> Result<()> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "rows"] {
        archive.directory(directory);
    }
    // The first program's standard files.
    archive.device("dev/console", (5, 1));
    archive.file(&INIT[1..], include_bytes!("../../../bench/cpu/init"));
    for (name, content) in programs.files()? {
        archive.file(&format!("rows/{name}"), &content);
    }
    std::fs::write(target, archive.finish()).with_context(|| format!("cannot write {}", target.display()))
}
