//! Which kernels there are, and which is the newest.

use super::files::Files;
use std::cmp::Ordering;

/// A kernel, bytes: distributions' have 8 to 20 MB.
pub const KERNEL_LIMIT: u64 = 256 << 20;

/// A kernel on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// Its file.
    pub path: String,
    /// What `uname -r` says.
    pub release: String,
}

/// Those in a directory.
pub fn there(files: &Files, directory: &str) -> Vec<Kernel> {
    let names = files.names(directory).into_iter();
    let all = names.filter_map(|name| {
        let release = name.strip_prefix("vmlinuz-")?.to_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || "+-._~".contains(c);
        // Rescue kernels of Fedora and copies that a packager or a user keeps are not what is booted.
        let spare = release.contains("-rescue-") || release.ends_with(".old") || release.ends_with(".bak");
        let usable =
            release.starts_with(|c: char| c.is_ascii_digit()) && release.chars().all(plain) && !spare;
        let path = format!("{}/{name}", directory.trim_end_matches('/'));
        usable.then_some(Kernel { path, release })
    });
    all.collect()
}

/// Compares releases as `sort -V` does: runs of digits by their value.
pub fn order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (x, y) = (text(&mut a), text(&mut b));
        let (m, n) = (number(&mut a), number(&mut b));
        let order = x.cmp(y).then(m.len().cmp(&n.len())).then(m.cmp(n));
        if order.is_ne() || (a.is_empty() && b.is_empty()) {
            return order;
        }
    }
}

/// Takes what is no digit.
fn text<'a>(rest: &mut &'a str) -> &'a str {
    let at = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (text, behind) = rest.split_at(at);
    *rest = behind;
    text
}

/// Takes digits, without zeroes in front.
fn number<'a>(rest: &mut &'a str) -> &'a str {
    let at = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, behind) = rest.split_at(at);
    *rest = behind;
    number.trim_start_matches('0')
}
