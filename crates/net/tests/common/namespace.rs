//! Tests in a network namespace of their own.

use std::process::Command;

const INSIDE: &str = "DONJON_TEST_IN_NAMESPACE";

/// Runs the test named `name` again in a new network namespace, in which it is privileged. True if this already
/// is that run.
pub fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    // Root needs no user namespace, which may be forbidden.
    let root = rustix::process::geteuid().is_root();
    let unshare = || {
        let mut command = Command::new("unshare");
        command.arg(if root { "--net" } else { "--map-root-user" });
        command.arg("--net");
        command
    };
    let tried = unshare()
        .arg("true")
        .output()
        .expect("unshare, of util-linux, starts");
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr);
        println!(
            "SKIPPED: no network namespace can be made here ({}); run the test as root",
            why.trim()
        );
        return false;
    }
    let output = unshare()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let log = [output.stdout, output.stderr].concat();
    let log = String::from_utf8_lossy(&log);
    assert!(output.status.success() && log.contains("1 passed"), "{log}");
    false
}

/// A command of ip(8).
pub fn ip(command: &str) {
    let status = Command::new("ip").args(command.split(' ')).status();
    assert!(status.expect("ip, of iproute2, starts").success(), "ip {command}");
}
