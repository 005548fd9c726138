//! Small kernels written by hand: how a domain ends, and what its console does.

mod common;

use common::{Running, arg, donjon, file, finish};
use donjon_machine::boot::sample::{bzimage, pvh_elf};
use rustix::process::Signal;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;

// 32-bit protected mode, except that operand-size prefixes do not matter in `OUT_*`.
const OUT_H: &[u8] = b"\x66\xba\xf8\x03\xb0H\xee"; // mov dx, 0x3f8; mov al, 'H'; out dx, al
const POWER_OFF: &[u8] = b"\x66\xba\x04\x06\x66\xb8\x00\x34\x66\xef"; // mov dx, 0x604; mov ax, S5|SLP_EN; out dx, ax
const RESET: &[u8] = b"\x66\xba\xf9\x0c\xb0\x06\xee"; // mov dx, 0xcf9; mov al, 6; out dx, al
const SLEEP: &[u8] = b"\xfa\xf4\xeb\xfd"; // cli; hlt; jmp to hlt
const UD2: &[u8] = b"\x0f\x0b";
const SPIN: &[u8] = b"\xeb\xfe"; // jmp to itself

/// A kernel of these pieces, and `donjon run` on it with these further arguments.
fn run(pieces: &[&[u8]], args: &[&str]) -> (TempDir, std::process::Command) {
    let directory = tempfile::tempdir().unwrap();
    let kernel = file(directory.path(), "kernel", &pvh_elf(&pieces.concat()));
    let command = donjon(
        &[
            &[
                "run",
                "--engine",
                "soft",
                "--memory",
                "16M",
                "--kernel",
                arg(&kernel),
            ],
            args,
        ]
        .concat(),
    );
    (directory, command)
}

#[test]
fn power_off_ends_with_success_after_the_last_output() {
    let (_directory, mut command) = run(&[OUT_H, OUT_H, POWER_OFF, SLEEP], &[]);
    assert_eq!(finish(&mut command, "").exits(0).stdout, "HH");
}

#[test]
fn a_bzimage_is_entered_in_long_mode() {
    // Works in 64-bit mode only: mov rax, 0x123456789abcdef0 (10 bytes in long mode); shr rax, 60; add al, 'G'
    let code = [
        b"\x48\xb8\xf0\xde\xbc\x9a\x78\x56\x34\x12\x48\xc1\xe8\x3c\x04G\x66\xba\xf8\x03\xee",
        POWER_OFF,
        SLEEP,
    ];
    let directory = tempfile::tempdir().unwrap();
    let kernel = file(directory.path(), "bzImage", &bzimage(&code.concat()));
    let done = finish(
        &mut donjon(&[
            "run",
            "--engine",
            "soft",
            "--memory",
            "16M",
            "--kernel",
            arg(&kernel),
        ]),
        "",
    );
    assert_eq!(done.exits(0).stdout, "H");
}

#[test]
fn a_triple_fault_shows_rip_the_reason_and_the_next_step() {
    let (_directory, mut command) = run(&[OUT_H, UD2], &[]);
    let done = finish(&mut command, "").exits(4);
    let done = done.says(&[
        "error: triple fault on vCPU 0 at rip 0x100007",
        "no interrupt table",
        "cr3",
        "hint: ",
    ]);
    assert_eq!(done.stdout, "H");
}

#[test]
fn a_reset_boots_again() {
    let (_directory, mut command) = run(&[OUT_H, RESET, SLEEP], &[]);
    let mut running = Running::start(&mut command);
    running.expect("H", 5);
    running.signal(Signal::TERM);
    running.finish().exits(128 + 15).says(&["signal 15"]);
}

#[test]
fn a_reset_ends_the_command_with_no_reboot() {
    let (_directory, mut command) = run(&[OUT_H, RESET, SLEEP], &["--no-reboot"]);
    let done = finish(&mut command, "").exits(3).says(&["reset"]);
    assert_eq!(done.stdout, "H");
}

#[test]
fn a_halted_domain_uses_no_cpu_and_signals_end_it() {
    for signal in [Signal::INT, Signal::HUP] {
        let (_directory, mut command) = run(&[OUT_H, SLEEP], &["--cpus", "4"]);
        let mut running = Running::start(&mut command);
        running.close();
        running.expect("H", 1);
        let used = running.cpu_time_during(Duration::from_secs(3));
        assert!(used < Duration::from_millis(300), "{used:?} of CPU in 3 s");
        running.signal(signal);
        running.finish().exits(128 + signal.as_raw());
    }
}

#[test]
fn a_busy_domain_is_ended_by_a_signal() {
    let (_directory, mut command) = run(&[OUT_H, SPIN], &[]);
    let mut running = Running::start(&mut command);
    running.expect("H", 1);
    running.signal(Signal::TERM);
    running.finish().exits(128 + 15);
}

#[test]
fn a_reader_that_goes_away_ends_the_domain() {
    // mov dx, 0x3f8; mov al, 'H'; out dx, al; jmp back to out
    let (_directory, mut command) = run(&[b"\x66\xba\xf8\x03\xb0H\xee\xeb\xfd"], &[]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HHHHHHHHHH");
    let done = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success() && errors.contains("nobody reads"),
        "{} {errors}",
        done.status
    );
}

#[test]
fn a_reader_that_stops_reading_does_not_keep_it_alive() {
    let (_directory, mut command) = run(&[b"\x66\xba\xf8\x03\xb0H\xee\xeb\xfd"], &[]);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // By then the pipe and the console's buffer are full.
    std::thread::sleep(Duration::from_secs(1));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    let mut child = child;
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

#[test]
fn input_reaches_a_guest_that_polls() {
    // Wait for LSR.DR; echo what came; power off at a newline.
    let code: &[u8] = &[
        0x66, 0xba, 0xfd, 0x03, // 0: mov dx, 0x3fd
        0xec, // 4: in al, dx
        0xa8, 0x01, // 5: test al, 1
        0x74, 0xfb, // 7: jz 4
        0x66, 0xba, 0xf8, 0x03, // 9: mov dx, 0x3f8
        0xec, // 13: in al, dx
        0xee, // 14: out dx, al
        0x3c, 0x0a, // 15: cmp al, 10
        0x75, 0xed, // 17: jne 0
    ];
    let (_directory, mut command) = run(&[code, POWER_OFF, SLEEP], &[]);
    let text = format!("{}\n", "a line of text, ".repeat(100));
    assert_eq!(finish(&mut command, &text).exits(0).stdout, text);
}

#[test]
fn statistics_count_instructions() {
    // mov ecx, 1000000; dec ecx; jnz back
    let (_directory, mut command) = run(
        &[b"\xb9\x40\x42\x0f\x00\x49\x75\xfd", POWER_OFF, SLEEP],
        &["--stats"],
    );
    let done = finish(&mut command, "").exits(0);
    let line = done
        .stderr
        .lines()
        .find(|l| l.starts_with("total: "))
        .expect(&done.stderr);
    let count: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((2_000_000..2_001_000).contains(&count), "{line}");
}

#[test]
fn kernels_cut_short_or_damaged_are_refused_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let run = |name: &str, content: &[u8]| {
        let kernel = file(directory.path(), name, content);
        finish(
            &mut donjon(&["run", "--engine", "soft", "--kernel", arg(&kernel)]),
            "",
        )
        .exits(1)
    };
    let whole = bzimage(&[0x90; 4000]);
    run("short", &whole[..whole.len() - 1000]).says(&[
        "error: kernel ",
        "short is cut short",
        "hint: copy or download",
    ]);
    let mut damaged = whole.clone();
    damaged[3000] ^= 0x10;
    run("damaged", &damaged).says(&["damaged is damaged: the checksum", "sha256sum"]);
    let elf = pvh_elf(&[0x90; 4000]);
    run("elf", &elf[..elf.len() - 1000]).says(&["elf is cut short: segment"]);
}
