//! The built-in image: Debian's stock kernel to a shell and back.

mod common;

use common::{Running, donjon, finish};
use rustix::process::Signal;
use std::time::Duration;

/// The image's first line in user space.
const UP: &str = "donjon: tiny image up";
const PROMPT: &str = "tiny:~# ";

#[test]
fn a_script_on_standard_input_drives_it_to_power_off() {
    // Written before the guest has begun to boot: nothing may be lost.
    let done = finish(
        &mut donjon(&["run"]),
        "nproc\necho sum=$((6 * 7))\nuname -r\npoweroff\n",
    )
    .exits(0);
    let out = done.stdout.replace('\r', "");
    assert!(out.contains(UP), "{out}");
    assert!(out.contains("tiny:~# nproc\n1\n"), "{out}");
    assert!(
        out.contains("\nsum=42\n") && out.contains("-cloud-amd64\n"),
        "{out}"
    );
}

#[test]
fn two_vcpus_are_two_processors() {
    let script = "nproc\ngrep -c ^processor /proc/cpuinfo\ntaskset 2 true && echo pinned\npoweroff\n";
    let done = finish(&mut donjon(&["run", "--cpus", "2", "--memory", "1G"]), script).exits(0);
    let out = done.stdout.replace('\r', "");
    assert!(out.contains("tiny:~# nproc\n2\n"), "{out}");
    assert!(
        out.contains("cpuinfo\n2\n") && out.contains("\npinned\n"),
        "{out}"
    );
}

#[test]
fn an_idle_shell_uses_no_cpu() {
    let mut running = Running::start(&mut donjon(&["run", "--cpus", "2"]));
    running.expect(PROMPT, 1);
    // The kernel still has work of its own to do in its first seconds.
    std::thread::sleep(Duration::from_secs(5));
    let used = running.cpu_time_during(Duration::from_secs(3));
    assert!(used < Duration::from_millis(300), "{used:?} of CPU in 3 s");
    running.send("echo still $((1 + 1)) here\n");
    running.expect("still 2 here", 1);
    running.signal(Signal::TERM);
    running.finish().exits(128 + 15);
}

#[test]
fn a_reboot_boots_again() {
    let mut running = Running::start(&mut donjon(&["run"]));
    running.expect(PROMPT, 1);
    running.send("reboot\n");
    running.expect(UP, 2);
    running.expect(PROMPT, 2);
    running.send("poweroff\n");
    running.close();
    running.finish().exits(0);
}

#[test]
fn a_panic_ends_the_command_with_no_reboot() {
    let mut running = Running::start(&mut donjon(&["run", "--no-reboot"]));
    running.expect(PROMPT, 1);
    running.send("echo c >/proc/sysrq-trigger\n");
    let done = running.finish().exits(3);
    assert!(done.stdout.contains("Kernel panic"), "{}", done.stdout);
}
