//! The programs, in one directory: they name each other without a path, so that guests and the host run the
//! same files with the same words.

use crate::bench::c::{gcc, output, sources};
use crate::bench::newc;
use crate::bench::rows::WORDS;
use crate::command::{command, run};
use crate::libraries;
use crate::prerequisites::find;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the sources are, from the workspace's root.
const SOURCES: &str = "xtask/bench/cpu";
/// Sources that are not linked into the program that has the rows.
const APART: [&str; 2] = ["nothing.c", "unit.c"];
/// The dynamic linker's name here; everywhere else it depends on the architecture.
const LINKER: &str = "ld.so";

/// Built and put in place.
pub struct Programs {
    directory: PathBuf,
    names: BTreeSet<String>,
}

impl Programs {
    /// Compiles what is ours, and takes busybox from the initrd of the image `tiny` and the compiler from the
    /// host.
    pub fn build(directory: &Path, tiny: &Path) -> Result<Self> {
        // Nothing of earlier runs.
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let mut programs = Self {
            directory: directory.into(),
            names: BTreeSet::new(),
        };
        programs.compile()?;
        let initrd = fs::read(tiny).with_context(|| format!("cannot read {}", tiny.display()))?;
        let busybox =
            newc::find(&initrd, "bin/busybox").context("cannot take busybox from the image tiny")?;
        let target = programs.target("busybox");
        fs::write(&target, busybox)?;
        run(command("chmod", &["755"]).arg(&target))?;
        programs.take_compiler()?;
        Ok(programs)
    }

    /// The rows on the host. The environment is what a kernel gives its first program.
    pub fn command(&self, words: Option<&str>) -> Command {
        let mut c = self.rows();
        c.env_clear().envs([("HOME", "/"), ("TERM", "linux")]);
        c.envs(words.map(|w| (WORDS, w)));
        c
    }

    /// The names of all rows, in lines.
    pub fn list(&self) -> Result<String> {
        output(self.rows().arg("list"))
    }

    /// All, with their names.
    pub fn files(&self) -> Result<Vec<(&str, Vec<u8>)>> {
        let read = |name: &String| fs::read(self.directory.join(name));
        self.names.iter().map(|n| Ok((&n[..], read(n)?))).collect()
    }

    fn rows(&self) -> Command {
        let mut c = Command::new(self.directory.join("rows"));
        c.current_dir(&self.directory);
        c
    }

    /// A place for one more.
    fn target(&mut self, name: &str) -> PathBuf {
        self.names.insert(name.into());
        self.directory.join(name)
    }

    fn compile(&mut self) -> Result<()> {
        let mut rows = gcc(SOURCES, &["-static", "-fno-math-errno"], &self.target("rows"));
        rows.args(
            sources(SOURCES)?
                .iter()
                .filter(|name| !APART.contains(&&name[..])),
        );
        run(&mut rows)?;
        run(gcc(SOURCES, &["-static", "-nostdlib"], &self.target("nothing")).arg("nothing.c"))?;
        run(gcc(SOURCES, &["-E", "-P"], &self.target("unit.i")).arg("unit.c"))
    }

    fn take_compiler(&mut self) -> Result<()> {
        for name in ["cc1", "as"] {
            let path = output(&mut command("gcc", &[&format!("-print-prog-name={name}")]))?;
            let path = find(path.trim()).with_context(|| format!("gcc's {name} is nowhere"))?;
            fs::copy(&path, self.target(name)).with_context(|| format!("cannot copy {}", path.display()))?;
            for library in libraries::of(&path)? {
                let name = name_of(&library)?;
                fs::copy(&library, self.target(name))
                    .with_context(|| format!("cannot copy {}", library.display()))?;
            }
        }
        if !self.names.contains(LINKER) {
            bail!("gcc's programs name no dynamic linker");
        }
        Ok(())
    }
}

/// The name that a library is looked for by.
fn name_of(library: &Path) -> Result<&str> {
    let name = library.file_name().and_then(|n| n.to_str());
    let name = name.with_context(|| format!("{} has no name", library.display()))?;
    Ok(if name.starts_with("ld-linux") {
        LINKER
    } else {
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_has_one_name_on_every_host() {
        let name = |path: &str| name_of(Path::new(path)).unwrap().to_owned();
        assert_eq!(name("/lib/x86_64-linux-gnu/libz.so.1"), "libz.so.1");
        assert_eq!(name("/lib64/ld-linux-x86-64.so.2"), LINKER);
    }
}
