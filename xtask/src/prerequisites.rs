//! What the tests need on the host, and how it gets there.

use crate::command::{cargo, command, run, succeeds};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// A program, and the Debian package it is in.
type Program = (&'static str, &'static str);

const GCC: Program = ("gcc", "gcc");

/// Fuzz targets (libFuzzer is C++) and the guest's test program are built, the built-in image is downloaded,
/// terminals and other users are played, disk images are compared with QEMU's, file systems are checked by e2fsck,
/// images are pulled from a registry and built from packages, full disks are played in a namespace.
const PROGRAMS: [Program; 11] = [
    GCC,
    ("g++", "g++"),
    ("apt-get", "apt"),
    ("script", "bsdutils"),
    SETPRIV,
    QEMU_IMG,
    ("docker-registry", "docker-registry"),
    ("mmdebstrap", "mmdebstrap"),
    ("/sbin/e2fsck", "e2fsprogs"),
    UNSHARE,
    IP,
];
/// The C library's archive, for static guest programs.
const LIBC: (&str, &str) = ("/usr/lib/x86_64-linux-gnu/libc.a", "libc6-dev");
/// What benchmarks compare with.
pub const QEMU: Program = ("qemu-system-x86_64", "qemu-system-x86");
/// What makes and checks disk images beside us.
pub const QEMU_IMG: Program = ("qemu-img", "qemu-utils");
/// What changes a program's user, or ends it with its parent.
pub const SETPRIV: Program = ("setpriv", "util-linux");
/// What makes network namespaces and interfaces.
pub const UNSHARE: Program = ("unshare", "util-linux");
pub const IP: Program = ("ip", "iproute2");

/// Cargo subcommands, with the crate they are in.
const CARGO_TOOLS: [(&str, &str); 2] = [("nextest", "cargo-nextest"), ("deny", "cargo-deny")];
const COMPONENTS: [(&str, &str); 2] = [("fmt", "rustfmt"), ("clippy", "clippy")];

/// Installs what the tests need and is missing.
pub fn install() -> Result<()> {
    let mut packages: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| !exists(program))
        .map(|(_, package)| *package)
        .collect();
    if !has_libc() {
        packages.push(LIBC.1);
    }
    install_packages(&packages)?;
    for (tool, component) in COMPONENTS {
        if !succeeds("cargo", &[tool, "--version"]) {
            run(&mut command("rustup", &["component", "add", component])).with_context(|| {
                format!("cargo {tool} is missing; install it: rustup component add {component}")
            })?;
        }
    }
    for (tool, package) in CARGO_TOOLS {
        if !succeeds("cargo", &[tool, "--version"]) {
            run(&mut cargo(&["install", "--locked", package]))?;
        }
    }
    Ok(())
}

/// Installs a program's package if the program is missing.
pub fn need((program, package): Program) -> Result<()> {
    if exists(program) {
        Ok(())
    } else {
        install_packages(&[package])
    }
}

/// Installs what builds static programs in C if it is missing.
pub fn need_c() -> Result<()> {
    need(GCC)?;
    match has_libc() {
        true => Ok(()),
        false => install_packages(&[LIBC.1]),
    }
}

fn has_libc() -> bool {
    Path::new(LIBC.0).exists()
}

fn install_packages(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let advice = format!("install them: sudo apt-get install {}", packages.join(" "));
    let root = succeeds("test", &["-w", "/var/lib/dpkg"]);
    let prefix: &[&str] = match root {
        true => &[],
        false if succeeds("sudo", &["-n", "true"]) => &["sudo", "-n"],
        false => bail!("missing packages: {}; {advice}", packages.join(" ")),
    };
    let apt = |args: &[&str]| {
        let words = [
            prefix,
            &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"],
            args,
        ]
        .concat();
        run(&mut command(words[0], &words[1..]))
    };
    let install = [&["install", "-y", "--no-install-recommends"], packages].concat();
    // The lists may be missing or too old.
    if apt(&install).is_err() {
        apt(&["update"]).with_context(|| advice.clone())?;
        apt(&install).context(advice)?;
    }
    Ok(())
}

fn exists(program: &str) -> bool {
    find(program).is_some()
}

/// Where a program is, given its name or its path.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Joining a path that is absolute gives that path.
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|p| p.is_file())
}
