//! The initramfs of the `tiny` image: busybox, some scripts, and the drivers of devices that domains can have.

use super::cpio::Newc;
use super::modules::{Module, modules_alias, modules_dep};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

/// Modules that go into the image where the kernel has them as modules; what they need follows by itself.
pub const MODULES: &[&str] = &[
    // Virtio: both transports, then every device class donjon has or will have.
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_scsi",
    "virtio_console",
    "virtio_balloon",
    "virtio_mem",
    "virtio_pmem",
    "virtio_input",
    "virtio-rng",
    "vmw_vsock_virtio_transport",
    "virtiofs",
    // Other disks and network cards.
    "nvme",
    "ahci",
    "sd_mod",
    "sr_mod",
    "nd_pmem",
    "e1000",
    // File systems.
    "ext4",
    "overlay",
    "erofs",
    "isofs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "loop",
    // Power button.
    "button",
    "evdev",
];

/// Files that are the same in every image: path, permissions, content.
const FILES: &[(&str, u32, &str)] = &[
    ("init", 0o755, include_str!("../../rootfs/init")),
    ("etc/console", 0o755, include_str!("../../rootfs/console")),
    ("etc/devices", 0o755, include_str!("../../rootfs/devices")),
    ("etc/fstab", 0o644, include_str!("../../rootfs/fstab")),
    ("etc/group", 0o644, "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hostname", 0o644, "tiny\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost tiny\n::1 localhost\n"),
    ("etc/inittab", 0o644, include_str!("../../rootfs/inittab")),
    (
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    ),
    ("etc/profile", 0o644, include_str!("../../rootfs/profile")),
    ("etc/stop", 0o755, include_str!("../../rootfs/stop")),
];

/// Permissions of directories other than 0755.
const PRIVATE: &[(&str, u32)] = &[("root", 0o700), ("tmp", 0o1777)];

const DIRECTORIES: &[&str] = &[
    "bin", "dev", "etc", "lib", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "usr/bin",
    "usr/sbin", "var",
];

/// What changes when images have to be built anew: everything in here that ends up in one.
pub fn recipe() -> String {
    let mut text = String::from("tiny, layout 1\n");
    for (path, mode, content) in FILES {
        text += &format!("{path} {mode:o} {content}\n");
    }
    text + &MODULES.join(" ") + &DIRECTORIES.join(" ") + &format!("{PRIVATE:?}")
}

/// Writes the archive. The applets' names are links that busybox itself makes at start, since only it knows
/// which ones it has.
pub fn write<W: Write>(
    out: W,
    busybox: &[u8],
    release: &str,
    builtin: &str,
    modules: &BTreeMap<String, Module>,
) -> io::Result<W> {
    let mut archive = Newc::new(out);
    for path in DIRECTORIES {
        let private = PRIVATE.iter().find(|(p, _)| p == path);
        archive.directory(path, private.map_or(0o755, |(_, mode)| *mode))?;
    }
    archive.character_device("dev/console", 0o600, (5, 1))?;
    archive.character_device("dev/null", 0o666, (1, 3))?;
    archive.file("bin/busybox", 0o755, busybox)?;
    archive.symlink("bin/sh", "busybox")?;
    archive.symlink("sbin/init", "../bin/busybox")?;
    archive.symlink("etc/mtab", "../proc/self/mounts")?;
    archive.symlink("var/run", "../run")?;
    archive.symlink("var/tmp", "../tmp")?;
    for (path, mode, content) in FILES {
        archive.file(path, *mode, content.as_bytes())?;
    }

    let base = format!("lib/modules/{release}");
    let mut directories = BTreeSet::from(["lib/modules".to_owned(), base.clone()]);
    for module in modules.values() {
        let slashes = module.path.match_indices('/');
        directories.extend(slashes.map(|(at, _)| format!("{base}/{}", &module.path[..at])));
    }
    for path in &directories {
        archive.directory(path, 0o755)?;
    }
    archive.file(
        &format!("{base}/modules.dep"),
        0o644,
        modules_dep(modules).as_bytes(),
    )?;
    archive.file(
        &format!("{base}/modules.alias"),
        0o644,
        modules_alias(modules).as_bytes(),
    )?;
    archive.file(&format!("{base}/modules.builtin"), 0o644, builtin.as_bytes())?;
    for module in modules.values() {
        archive.file(&format!("{base}/{}", module.path), 0o644, &module.bytes)?;
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::super::cpio::tests::{Entry, read};
    use super::super::modinfo::ModInfo;
    use super::*;

    fn image() -> Vec<u8> {
        let module = |name: &str, path: &str| {
            let info = ModInfo {
                depends: vec![],
                aliases: vec![format!("pci:{name}")],
            };
            (
                name.to_owned(),
                Module {
                    name: name.into(),
                    path: path.into(),
                    bytes: vec![1, 2, 3],
                    info,
                },
            )
        };
        let modules = BTreeMap::from([
            module("a", "kernel/drivers/virtio/a.ko"),
            module("b", "kernel/drivers/b.ko"),
        ]);
        write(Vec::new(), b"busybox", "6.1.0", "kernel/c.ko\n", &modules).unwrap()
    }

    #[test]
    fn every_parent_comes_before_its_children() {
        let entries = read(&image());
        let mut seen = BTreeSet::from([String::new()]);
        for Entry { path, .. } in &entries {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            assert!(seen.contains(parent), "{path} before its directory");
            assert!(seen.insert(path.clone()), "{path} twice");
        }
        let console = entries.iter().find(|e| e.path == "dev/console").unwrap();
        assert_eq!((console.mode, console.device), (0o020_600, (5, 1)));
        let dep = entries
            .iter()
            .find(|e| e.path == "lib/modules/6.1.0/modules.dep")
            .unwrap();
        assert_eq!(
            dep.content,
            b"kernel/drivers/virtio/a.ko:\nkernel/drivers/b.ko:\n"
        );
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        assert_eq!(image(), image());
    }

    #[test]
    fn scripts_are_executable_and_nothing_else_is() {
        for (path, mode, content) in FILES {
            assert_eq!(content.starts_with("#!"), mode & 0o111 != 0, "{path}");
        }
    }
}
