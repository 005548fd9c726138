//! What process 1 says.

use std::fs::OpenOptions;
use std::io::Write;

/// Tells what went wrong: a line in the kernel's log that the console shows even with `quiet`.
pub fn say(what: &str) {
    write(3, what);
}

/// Tells what is usual: a line in the kernel's log that a quiet console does not show.
pub fn note(what: &str) {
    write(6, what);
}

/// `level` is one of syslog(2).
fn write(level: u8, what: &str) {
    let line = format!("<{level}>donjon-agent: {}\n", what.replace('\n', " "));
    let written = OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut log| log.write_all(line.as_bytes()));
    if written.is_err() {
        // Standard error is the console, if there is one.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
