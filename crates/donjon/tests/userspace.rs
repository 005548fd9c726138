//! A C program in the guest's user space: signals, fork, mmap, floating point, self-modifying code, threads.

mod common;

use common::{arg, donjon, file, finish};
use donjon_host::{images, progress};
use std::path::Path;
use std::process::Command;

const PROGRAM: &str = include_str!("userspace/check.c");
/// What the program prints for each check that passed.
const CHECKS: [&str; 9] = [
    "signals",
    "fork",
    "mmap",
    "x87",
    "sse",
    "self-modifying",
    "threads",
    "futex",
    "syscalls",
];

/// `content` as a file in an archive of the format "newc" (Linux Documentation/driver-api/early-userspace/
/// buffer-format.rst).
fn newc(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = vec![];
    for (name, mode, content) in [(name, 0o100_755, content), ("TRAILER!!!", 0, &[])] {
        let fields =
            [1, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0].map(|f| format!("{f:08x}"));
        archive.extend_from_slice(format!("070701{}{name}\0", fields.concat()).as_bytes());
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// The program, compiled statically.
fn compile(directory: &Path) -> Vec<u8> {
    let source = file(directory, "check.c", PROGRAM.as_bytes());
    let program = directory.join("check");
    let mut gcc = Command::new("gcc");
    gcc.args(["-static", "-O1", "-Wall", "-Werror", "-pthread", "-o"])
        .arg(&program)
        .arg(&source)
        .arg("-lm");
    let done = gcc
        .output()
        .expect("gcc starts; install it: apt-get install gcc libc6-dev");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::read(program).expect("gcc made it")
}

/// Runs the program with this many vCPUs of this model.
fn check(cpus: &str, model: &str) {
    let directory = tempfile::tempdir().unwrap();
    let image = images::tiny(&progress::Silent).expect("the image tiny");
    let mut initrd = std::fs::read(&image.initrd).unwrap();
    // The kernel unpacks archives one after the other.
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend(newc("check", &compile(directory.path())));
    let initrd = file(directory.path(), "initrd", &initrd);
    let kernel = image.kernel;
    let args = [
        "run",
        "--cpus",
        cpus,
        "--cpu-model",
        model,
        "--kernel",
        arg(&kernel),
        "--initrd",
        arg(&initrd),
    ];
    let done = finish(&mut donjon(&args), "/check; echo exit=$?\npoweroff\n").exits(0);
    let out = done.stdout.replace('\r', "");
    for check in CHECKS {
        assert!(out.contains(&format!("\nok {check}\n")), "{check} failed:\n{out}");
    }
    assert!(out.contains("\nexit=0\n"), "{out}");
}

#[test]
fn programs_run_as_on_hardware() {
    check("1", "x86-64-v3");
}

#[test]
fn programs_run_as_on_hardware_with_two_vcpus_of_the_smaller_model() {
    check("2", "x86-64-v2");
}
