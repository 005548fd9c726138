//! The program with the rows, and the guest's user space: the image `tiny` with this program and its init in it.

use crate::bench::c::{gcc, output, sources};
use crate::bench::newc::Archive;
use crate::command::run;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first program, for `rdinit=`.
pub const INIT: &str = "/bench/init";
/// Where the sources are, from the workspace's root.
const SOURCES: &str = "xtask/bench/io";

/// The program.
pub struct Rows(PathBuf);

impl Rows {
    /// Compiles it.
    pub fn build(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let target = directory.join("rows");
        run(gcc(SOURCES, &["-static"], &target).args(sources(SOURCES)?))?;
        Ok(Self(target))
    }

    /// The names of all rows, in lines.
    pub fn list(&self) -> Result<String> {
        output(self.command().arg("list"))
    }

    /// It, on the host.
    pub fn command(&self) -> Command {
        Command::new(&self.0)
    }

    /// Writes the guest's initramfs. Linux takes archives one behind the other.
    pub fn initramfs(&self, target: &Path, tiny: &Path) -> Result<()> {
        let mut content = fs::read(tiny).with_context(|| format!("cannot read {}", tiny.display()))?;
        content.resize(content.len().next_multiple_of(4), 0);
        let mut archive = Archive::default();
        archive.directory("bench");
        archive.file(&INIT[1..], include_bytes!("../../../bench/io/init"));
        archive.file("bench/rows", &fs::read(&self.0)?);
        content.extend(archive.finish());
        fs::write(target, content).with_context(|| format!("cannot write {}", target.display()))
    }
}
