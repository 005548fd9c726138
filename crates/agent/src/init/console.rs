//! What process 1 says.

use std::fs::OpenOptions;
use std::io::Write;

/// Writes a line to the kernel's log as an error, which shows it on the console even with `quiet`, and keeps it.
pub fn say(what: &str) {
    let line = format!("<3>donjon-agent: {}\n", what.replace('\n', " "));
    let written = OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut log| log.write_all(line.as_bytes()));
    if written.is_err() {
        // Standard error is the console, if there is one.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
