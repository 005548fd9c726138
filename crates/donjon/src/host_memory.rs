//! How much memory this host can give a domain.

use std::fs::read_to_string;

/// Bytes of RAM of this host, or of the control group this process is in if that has fewer; `None` if the
/// host does not tell.
pub fn total() -> Option<u64> {
    let host = memory_total(&read_to_string("/proc/meminfo").ok()?);
    // In a container this is its own limit (Linux Documentation/admin-guide/cgroup-v2.rst, "memory.max").
    let group = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let group = group
        .iter()
        .find_map(|f| read_to_string(f).ok()?.trim().parse::<u64>().ok());
    [host, group].into_iter().flatten().min()
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found_in_meminfo() {
        assert_eq!(
            memory_total("MemTotal:       24652072 kB\nMemFree: 1 kB\n"),
            Some(24652072 * 1024)
        );
        assert_eq!(memory_total("MemFree: 1 kB\n"), None);
        assert!(total().is_some_and(|t| t > 64 << 20));
    }
}
