//! The processes of a session, by /proc.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;

/// Session and state of a process, from proc_pid_stat(5).
fn stat(pid: i32) -> Option<(i32, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may have anything in it; the last parenthesis ends it.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(2)?.parse().ok()?, state))
}

fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// Sends a signal to every process of the session. Returns to how many that live.
pub fn signal_session(session: Pid, signal: Signal) -> usize {
    let members = all().filter(|pid| {
        stat(*pid)
            .is_some_and(|(s, state)| s == session.as_raw_nonzero().get() && !matches!(state, 'Z' | 'X'))
    });
    // One that has ended since is none.
    members
        .filter_map(Pid::from_raw)
        .filter(|pid| kill_process(*pid, signal).is_ok())
        .count()
}

/// Sends a signal to every process but the first and this one. Returns to how many that live; threads of the
/// kernel, which have no signals, are none.
pub fn signal_all(signal: Signal) -> usize {
    let own = std::process::id().cast_signed();
    let others = all().filter(|pid| *pid != 1 && *pid != own);
    let programs = others.filter(|pid| {
        let threads_of_kernel = fs::read_link(format!("/proc/{pid}/exe")).is_err();
        !threads_of_kernel && stat(*pid).is_some_and(|(_, state)| !matches!(state, 'Z' | 'X'))
    });
    programs
        .filter_map(Pid::from_raw)
        .filter(|pid| kill_process(*pid, signal).is_ok())
        .count()
}
