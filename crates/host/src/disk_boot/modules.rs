//! Modules of the system's own kernel, by what depmod wrote when the kernel was installed (modules.dep(5)).

use super::files::Files;
use crate::images::{Compression, normal_name};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// A module, unpacked, bytes. The largest of Debian's (a graphics driver) has about 15 MiB.
const MODULE_LIMIT: u64 = 64 << 20;
/// modules.dep, bytes: Debian's for all hardware has 1 MB.
const LIST_LIMIT: u64 = 16 << 20;
/// Modules that are loaded, with what they depend on.
const MAX: usize = 200;

/// The `wanted` modules with all they depend on, each behind what it needs. A kernel that has something built in, or
/// not at all, has no module for it.
pub fn load(root: &Files, release: &str, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let base = ["/lib/modules", "/usr/lib/modules"].map(|d| format!("{d}/{release}"));
    let Some(base) = base.into_iter().find(|b| !root.names(b).is_empty()) else {
        return Err(format!(
            "its kernel {release} has no modules in /lib/modules/{release}"
        ));
    };
    let list = root.read(&format!("{base}/modules.dep"), LIST_LIMIT)?;
    let list = String::from_utf8_lossy(&list);
    let paths = in_order(&list, wanted);
    if paths.len() > MAX {
        return Err(format!("{base}/modules.dep wants more than {MAX} modules loaded"));
    }
    let load = |path: &str| {
        let packed = root.read(&format!("{base}/{path}"), MODULE_LIMIT)?;
        let (plain, compression) = Compression::of_name(path);
        let mut bytes = vec![];
        let read = compression.reader(&packed[..], MODULE_LIMIT);
        read.and_then(|mut r| r.read_to_end(&mut bytes))
            .map_err(|e| format!("the kernel module {path} cannot be unpacked: {e}"))?;
        let name = plain.rsplit('/').next().unwrap_or(plain);
        Ok((name.to_owned(), bytes))
    };
    paths.into_iter().map(load).collect()
}

/// Paths to load, in order. A line names a module and behind it all it needs, what is loaded first at the end.
fn in_order<'a>(list: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let lines = list.lines().filter_map(|l| l.split_once(':'));
    let lines: BTreeMap<String, (&str, &str)> =
        lines.map(|(path, needs)| (name(path), (path, needs))).collect();
    let (mut order, mut seen) = (vec![], BTreeSet::new());
    for module in wanted {
        let Some((path, needs)) = lines.get(&normal_name(module)) else {
            continue;
        };
        for path in needs.split_whitespace().rev().chain([*path]) {
            if seen.insert(path) {
                order.push(path);
            }
        }
    }
    order
}

fn name(path: &str) -> String {
    let (plain, _) = Compression::of_name(path);
    let file = plain.rsplit('/').next().unwrap_or(plain);
    normal_name(file.strip_suffix(".ko").unwrap_or(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let list = "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko kernel/fs/mbcache.ko\n\
                    kernel/fs/jbd2/jbd2.ko.xz:\nkernel/lib/crc16.ko:\n\
                    kernel/drivers/virtio/virtio_blk.ko: kernel/lib/crc16.ko\nno line\n";
        let order = in_order(list, &["ext4", "virtio-blk", "absent"]);
        assert_eq!(
            order,
            [
                "kernel/fs/mbcache.ko",
                "kernel/lib/crc16.ko",
                "kernel/fs/jbd2/jbd2.ko.xz",
                "kernel/fs/ext4/ext4.ko.xz",
                "kernel/drivers/virtio/virtio_blk.ko"
            ]
        );
    }
}
