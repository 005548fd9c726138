//! The file systems that are not on a disk.

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const NOSUID: MountFlags = MountFlags::NOSUID;
const NODEV: MountFlags = MountFlags::NODEV;
const NOEXEC: MountFlags = MountFlags::NOEXEC;

/// Mounts one. A kernel that has mounted it itself is content.
fn one(fstype: &str, path: &str, flags: MountFlags, options: &str) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("cannot mount {fstype} on {path}: {e}");
    fs::create_dir_all(path).map_err(|e| failed(&e))?;
    let options = CString::new(options).map_err(|e| failed(&e))?;
    match mount(fstype, path, fstype, flags, &*options) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(e) => Err(failed(&e)),
    }
}

/// What the agent itself needs, in the initramfs.
pub fn basic() -> Result<(), String> {
    one("proc", "/proc", NOSUID | NODEV | NOEXEC, "")?;
    one("sysfs", "/sys", NOSUID | NODEV | NOEXEC, "")?;
    one("devtmpfs", "/dev", NOSUID, "mode=755")?;
    one("tmpfs", "/run", NOSUID | NODEV, "mode=755")
}

/// Moves them into the new root directory.
pub fn move_to(root: &Path) -> Result<(), String> {
    for path in ["/proc", "/sys", "/dev", "/run"] {
        let target = root.join(&path[1..]);
        // The image may have been made without.
        let moved = fs::create_dir_all(&target)
            .map_err(|e| e.to_string())
            .and_then(|()| mount_move(path, &target).map_err(|e| e.to_string()));
        moved.map_err(|e| format!("cannot move {path} to the root file system: {e}"))?;
    }
    Ok(())
}

/// What programs expect beside them, in the image.
pub fn container() -> Result<(), String> {
    one(
        "devpts",
        "/dev/pts",
        NOSUID | NOEXEC,
        "gid=5,mode=620,ptmxmode=666",
    )?;
    one("tmpfs", "/dev/shm", NOSUID | NODEV, "mode=1777")?;
    one("mqueue", "/dev/mqueue", NOSUID | NODEV | NOEXEC, "").or_else(optional)?;
    one("cgroup2", "/sys/fs/cgroup", NOSUID | NODEV | NOEXEC, "nsdelegate").or_else(optional)?;
    // What an image has there it is to keep.
    let empty = fs::read_dir("/tmp").map_or(true, |mut entries| entries.next().is_none());
    if empty {
        one("tmpfs", "/tmp", NOSUID | NODEV, "mode=1777")?;
    }
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        // They may be there.
        let _ = symlink(target, link);
    }
    Ok(())
}

/// Some kernels do not have it.
fn optional(what: String) -> Result<(), String> {
    super::console::say(&what);
    Ok(())
}
