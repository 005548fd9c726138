//! Facts of the host, from /proc and the file system.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// What the report is about.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// As the processor names itself.
    pub cpu_model: String,
    /// `GenuineIntel`, `AuthenticAMD`…
    pub cpu_vendor: String,
    /// Processors this process may use, by affinity and cgroup.
    pub cores: usize,
    /// All memory and what is available, MiB; a cgroup's limit counts.
    pub memory_mib: Option<(u64, u64)>,
    /// The path of `apt-get`.
    pub apt: Option<PathBuf>,
}

impl Facts {
    /// Of this host.
    pub fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = |key| field(&cpuinfo, key).unwrap_or("unknown").to_owned();
        let limit = cgroup_limit(
            &read("/sys/fs/cgroup/memory.max"),
            &read("/sys/fs/cgroup/memory.current"),
        );
        Self {
            cpu_model: cpu("model name"),
            cpu_vendor: cpu("vendor_id"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory(&read("/proc/meminfo"), limit),
            apt: std::env::var_os("PATH").and_then(|path| program("apt-get", &path)),
        }
    }
}

/// The value in the first line `key : value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// All and available memory in MiB, from `/proc/meminfo` and the cgroup's limits in bytes.
fn memory(meminfo: &str, limit: Option<(u64, u64)>) -> Option<(u64, u64)> {
    let kib = |key| field(meminfo, key)?.strip_suffix(" kB")?.parse::<u64>().ok();
    let (mut total, mut available) = (kib("MemTotal")? >> 10, kib("MemAvailable")? >> 10);
    if let Some((max, used)) = limit {
        total = total.min(max >> 20);
        available = available.min(max.saturating_sub(used) >> 20);
    }
    Some((total, available))
}

/// Limit and use of the cgroup in bytes; `None` without a limit.
fn cgroup_limit(max: &str, current: &str) -> Option<(u64, u64)> {
    Some((max.trim().parse().ok()?, current.trim().parse().unwrap_or(0)))
}

/// Where a shell would find a program.
fn program(name: &str, path: &OsStr) -> Option<PathBuf> {
    let absolute = |dir: &PathBuf| dir.is_absolute();
    std::env::split_paths(path)
        .filter(absolute)
        .map(|dir| dir.join(name))
        .find(|p| executable(p))
}

fn executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24576000 kB\nMemFree:  1 kB\nMemAvailable:   20480000 kB\n";

    #[test]
    fn memory_counts_the_cgroup() {
        assert_eq!(memory(MEMINFO, None), Some((24000, 20000)));
        assert_eq!(cgroup_limit("max\n", "5\n"), None);
        let limit = cgroup_limit("1073741824\n", "104857600\n");
        assert_eq!(memory(MEMINFO, limit), Some((1024, 924)));
        assert_eq!(memory("", None), None);
    }

    #[test]
    fn a_program_is_found_where_a_shell_would() {
        assert_eq!(
            program("sh", OsStr::new("relative:/nonexistent:/bin")),
            Some("/bin/sh".into())
        );
        assert_eq!(
            program("donjon-no-such-program", OsStr::new("/bin:/usr/bin")),
            None
        );
        assert_eq!(program("passwd", OsStr::new("/etc")), None, "not executable");
    }
}
