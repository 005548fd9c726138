//! The console at a terminal, which script(1) provides.

mod common;

use common::{Running, arg, file};
use donjon_machine::boot::sample::pvh_elf;
use std::process::Command;

/// Prints H, then echoes what it reads with every code raised by one, so that it differs from an echo of the
/// terminal's.
const ECHO: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'H', // mov al, 'H'
    0xee, // out dx, al
    0x66, 0xba, 0xfd, 0x03, // 7: mov dx, 0x3fd
    0xec, // 11: in al, dx
    0xa8, 0x01, // test al, 1
    0x74, 0xfb, // jz 11
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xec, // in al, dx
    0x40, // inc eax
    0xee, // out dx, al
    0xeb, 0xee, // jmp 7
];

/// Runs `prefix donjon run` on the kernel at a terminal, between two looks at the terminal's settings.
fn at_a_terminal(prefix: &str) -> (tempfile::TempDir, Running) {
    let directory = tempfile::tempdir().unwrap();
    let kernel = file(directory.path(), "kernel", &pvh_elf(ECHO));
    let donjon = env!("CARGO_BIN_EXE_donjon");
    let run = format!(
        "{prefix} {donjon} run --engine soft --memory 16M --kernel {}",
        arg(&kernel)
    );
    let line = format!("stty -g; {run}; echo code=$?; stty -g");
    let mut script = Command::new("script");
    script
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .env_remove("RUST_LOG");
    let running = Running::start(&mut script);
    (directory, running)
}

/// Checks the end: this exit code, and settings as before.
#[track_caller]
fn ends(running: Running, code: &str) -> String {
    let out = running.finish().stdout;
    assert!(out.contains(&format!("code={code}\r\n")), "{out}");
    let settings: Vec<_> = out.lines().filter(|l| l.matches(':').count() > 20).collect();
    assert!(settings.len() == 2 && settings[0] == settings[1], "{out}");
    out
}

#[test]
fn keys_reach_the_guest_raw_and_the_escape_character_leaves() {
    let (_directory, mut running) = at_a_terminal("");
    running.expect("^] leaves it", 1);
    running.expect("H", 1);
    // ^C, ^Z and ^D are the guest's.
    running.send("ab\x03\x1a\x04c");
    running.expect("bc\x04\x1b\x05d", 1);
    running.send("\x1d");
    let out = ends(running, "0");
    assert!(out.contains("Left the console"), "{out}");
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    for (signal, code) in [("TERM", "143"), ("HUP", "129"), ("INT", "130")] {
        let (_directory, running) =
            at_a_terminal(&format!("timeout --foreground --preserve-status -s {signal} 1"));
        ends(running, code);
    }
}
