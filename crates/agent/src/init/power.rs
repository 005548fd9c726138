//! The end of the machine.

use super::console::say;
use crate::processes::signal_all;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::Signal;
use rustix::system::{RebootCommand, reboot};
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long programs have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// How often they are counted.
const PAUSE: Duration = Duration::from_millis(20);

/// Ends every program, writes everything to the disks, and ends the machine.
pub fn end(how: RebootCommand) -> ! {
    let until = Instant::now() + GRACE;
    signal_all(Signal::TERM);
    signal_all(Signal::CONT);
    // As a signal that does nothing shows who is left; a zombie is not counted.
    while signal_all(Signal::CONT) > 0 && Instant::now() < until {
        sleep(PAUSE);
    }
    while signal_all(Signal::KILL) > 0 && Instant::now() < until + GRACE {
        sleep(PAUSE);
    }
    rustix::fs::sync();
    for path in mounted() {
        let _ = unmount(path.as_str(), UnmountFlags::empty());
    }
    if let Err(e) = mount_remount("/", MountFlags::RDONLY, c"") {
        // What is written is on the disk all the same.
        say(&format!("the root file system cannot be made read-only: {e}"));
    }
    rustix::fs::sync();
    // The kernel's last words are no program's output.
    let _ = fs::write("/proc/sys/kernel/printk", "0");
    let error = match reboot(how) {
        Ok(()) => "nothing happened".to_owned(),
        Err(e) => e.to_string(),
    };
    say(&format!("cannot end the machine: {error}"));
    loop {
        sleep(Duration::from_secs(3600));
    }
}

/// Mount points of file systems that hold files, the last mounted first.
fn mounted() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let kept = ["/", "/proc", "/sys", "/dev"];
    let path = |line: &str| line.split(' ').nth(1).map(str::to_owned);
    let mut paths: Vec<_> = mounts
        .lines()
        .filter_map(path)
        .filter(|p| !kept.contains(&p.as_str()))
        .collect();
    paths.reverse();
    paths
}
