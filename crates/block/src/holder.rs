//! Who holds a lock on a file.

use std::fmt;
use std::fs::{self, Metadata};
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A process that uses an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process ID.
    pub pid: u32,
    /// Its name, as in proc(5), /proc/pid/comm.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid == std::process::id() {
            true => write!(f, "this process"),
            false => write!(f, "process {} ({})", self.name, self.pid),
        }
    }
}

/// The process that has a lock on one of these bytes of a file. Only processes of the same user can be told,
/// unless this one is root's.
pub(crate) fn find(file: &Metadata, bytes: RangeInclusive<u64>) -> Option<Holder> {
    let device = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fdinfo")) else {
            continue;
        };
        let holds = |path: &Path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.lines().any(|l| is_lock(l, device, file.ino(), &bytes))
        };
        if descriptors.flatten().any(|d| holds(&d.path())) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let name = name.trim_end().chars().filter(|c| !c.is_control()).collect();
            return Some(Holder { pid, name });
        }
    }
    None
}

/// `lock: 1: OFDLCK  ADVISORY  READ -1 fe:00:1234 100 101` (proc(5), as in /proc/locks).
fn is_lock(line: &str, device: (u32, u32), inode: u64, bytes: &RangeInclusive<u64>) -> bool {
    let Some(rest) = line.strip_prefix("lock:") else {
        return false;
    };
    let words: Vec<&str> = rest.split_whitespace().collect();
    let [_, kind, .., file, first, last] = words[..] else {
        return false;
    };
    let parts: Vec<&str> = file.split(':').collect();
    let [major, minor, ino] = parts[..] else {
        return false;
    };
    let hexadecimal = |s| u32::from_str_radix(s, 16).ok();
    let last = if last == "EOF" {
        u64::MAX
    } else {
        last.parse().unwrap_or(0)
    };
    matches!(kind, "OFDLCK" | "POSIX")
        && (hexadecimal(major), hexadecimal(minor)) == (Some(device.0), Some(device.1))
        && ino.parse() == Ok(inode)
        && first
            .parse::<u64>()
            .is_ok_and(|first| first <= *bytes.end() && last >= *bytes.start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_understood() {
        let line = "lock:\t1: OFDLCK ADVISORY  READ -1 fe:0a:1234 100 101";
        assert!(is_lock(line, (0xfe, 10), 1234, &(101..=101)));
        assert!(!is_lock(line, (0xfe, 10), 1234, &(102..=103)));
        assert!(!is_lock(line, (0xfe, 10), 1235, &(100..=100)));
        assert!(!is_lock(line, (0xfe, 0), 1234, &(100..=100)));
        let line = "lock:\t1: POSIX  ADVISORY  WRITE 4711 00:1c:7 0 EOF";
        assert!(is_lock(line, (0, 0x1c), 7, &(200..=200)));
        assert!(!is_lock(
            "lock:\t1: FLOCK  ADVISORY  WRITE 4711 00:1c:7 0 EOF",
            (0, 0x1c),
            7,
            &(0..=1)
        ));
        assert!(!is_lock("pos:\t0", (0, 0), 0, &(0..=0)));
    }
}
