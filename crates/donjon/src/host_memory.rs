//! How much memory this host can give a domain.

use std::fs::read_to_string;

/// Bytes that it can give now without taking them from others; `None` if it does not tell.
pub fn available() -> Option<u64> {
    let host = meminfo(&read_to_string("/proc/meminfo").ok()?, "MemAvailable:");
    let number = |file: &str| read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(most, now)| most.saturating_sub(now));
    [host, group].into_iter().flatten().min()
}

/// Bytes of RAM of this host, or of the control group this process is in if that has fewer; `None` if the
/// host does not tell.
pub fn total() -> Option<u64> {
    let host = meminfo(&read_to_string("/proc/meminfo").ok()?, "MemTotal:");
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

fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found_in_meminfo() {
        assert_eq!(
            meminfo("MemTotal:       24652072 kB\nMemFree: 1 kB\n", "MemTotal:"),
            Some(24652072 * 1024)
        );
        assert_eq!(meminfo("MemFree: 1 kB\n", "MemTotal:"), None);
        assert!(total().is_some_and(|t| t > 64 << 20));
        assert!(available().is_some_and(|a| a > 0 && a < total().unwrap_or(0)));
    }
}
