//! The shared libraries of a program.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Those that the dynamic linker would load, and that itself. None for a static program or a script.
pub fn of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .context("cannot start ldd; install it: sudo apt-get install libc-bin")?;
    if !output.status.success() {
        // What ldd says of programs without any, and of files that are none.
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("not a dynamic executable") {
            return Ok(vec![]);
        }
        bail!("ldd {} failed: {}", program.display(), said.trim());
    }
    parse(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("in {}", program.display()))
}

/// The paths in what ldd prints.
fn parse(text: &str) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    for line in text.lines() {
        // `NAME => PATH (ADDRESS)`, `PATH (ADDRESS)` for the linker, `NAME (ADDRESS)` for what the kernel has.
        let what = line.split_once("=>").map_or(line, |(_, path)| path).trim();
        if what == "not found" {
            bail!("this library is missing on the host: {}", line.trim());
        }
        let path = what.rsplit_once(" (").map_or(what, |(path, _)| path);
        if path.starts_with('/') {
            found.push(path.into());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_in_every_kind_of_line() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f01)\n";
        let expected: [PathBuf; 2] = [
            "/lib/x86_64-linux-gnu/libc.so.6".into(),
            "/lib64/ld-linux-x86-64.so.2".into(),
        ];
        assert_eq!(parse(text).unwrap(), expected);
        assert!(parse("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = parse("\tlibx.so.1 => not found\n").unwrap_err().to_string();
        assert!(error.contains("libx.so.1"), "{error}");
    }

    #[test]
    fn this_program_has_a_c_library() {
        let found = of(&std::env::current_exe().unwrap()).unwrap();
        assert!(found.iter().any(|p| p.ends_with("libc.so.6")), "{found:?}");
    }
}
