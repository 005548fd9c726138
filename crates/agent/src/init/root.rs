//! The root file system.

use super::mounts;
use donjon_agent_protocol::boot::Root;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_move};
use rustix::process::{chdir, chroot};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Where it is mounted until it is the root.
pub const NEW: &str = "/newroot";
/// How often a device is looked for.
const PAUSE: Duration = Duration::from_millis(5);

/// Inserts a module. One that is there already is content.
pub fn insert(path: &str) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("cannot insert the module {path}: {e}");
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed(&e))?;
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(Errno::NOENT) => Err(failed(&"it needs symbols of another module; name that before it")),
        Err(e) => Err(failed(&e)),
    }
}

/// Mounts the root file system at [`NEW`].
pub fn mount(root: &Root) -> Result<(), String> {
    if root.fstype != "virtiofs" {
        wait_for(&root.device, Duration::from_secs(root.wait_seconds.into()))?;
    }
    if !root.overlay {
        return mount_one(&root.device, NEW, &root.fstype, root.read_only, &root.options);
    }
    mount_one(&root.device, "/lower", &root.fstype, true, &root.options)?;
    mount_one("tmpfs", "/upper", "tmpfs", false, "mode=755")?;
    for directory in ["/upper/files", "/upper/work"] {
        fs::create_dir(directory).map_err(|e| format!("cannot make {directory}: {e}"))?;
    }
    let options = "lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work";
    mount_one("overlay", NEW, "overlay", root.read_only, options)
}

fn mount_one(device: &str, path: &str, fstype: &str, read_only: bool, options: &str) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("cannot mount {device} as {fstype}: {e}");
    fs::create_dir_all(path).map_err(|e| failed(&e))?;
    let options = CString::new(options).map_err(|e| failed(&e))?;
    let flags = if read_only {
        MountFlags::RDONLY
    } else {
        MountFlags::empty()
    };
    rustix::mount::mount(device, path, fstype, flags, &*options).map_err(|e| match e {
        Errno::NODEV => failed(&"this kernel does not know the file system; is its module missing?"),
        e => failed(&e),
    })
}

/// Waits until there is a block device.
fn wait_for(device: &str, time: Duration) -> Result<(), String> {
    let until = Instant::now() + time;
    loop {
        match fs::metadata(device) {
            Ok(m) if m.file_type().is_block_device() => return Ok(()),
            Ok(_) => return Err(format!("{device} is not a block device")),
            Err(_) if Instant::now() < until => sleep(PAUSE),
            Err(_) => break,
        }
    }
    let mut there: Vec<_> = fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| format!("/dev/{}", e.file_name().to_string_lossy()))
        .collect();
    there.sort();
    let there = if there.is_empty() {
        "no disks at all; is the module of their controller missing?".into()
    } else {
        there.join(", ")
    };
    Err(format!(
        "the root device {device} did not appear in {} s; there is: {there}",
        time.as_secs()
    ))
}

/// Makes what is mounted at [`NEW`] the root, as switch_root(8) does.
pub fn enter() -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("cannot change to the root file system: {e}");
    mounts::move_to(Path::new(NEW))?;
    let old = open(
        "/",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let old = old.map_err(|e| failed(&e))?;
    chdir(NEW).map_err(|e| failed(&e))?;
    // Gives the initramfs' memory back. The agent's own file stays as long as it runs.
    if let Ok(top) = fs::metadata("/") {
        let _ = remove_content(Path::new("/"), top.dev(), 0);
    }
    drop(old);
    mount_move(".", "/").map_err(|e| failed(&e))?;
    chroot(".").map_err(|e| failed(&e))?;
    chdir("/").map_err(|e| failed(&e))
}

/// Removes what is in a directory of the initramfs, and nothing on other file systems.
fn remove_content(directory: &Path, device: u64, depth: u32) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.dev() != device {
            continue;
        }
        if !metadata.is_dir() {
            let _ = fs::remove_file(&path);
        } else if depth < 32 {
            let _ = remove_content(&path, device, depth + 1);
            let _ = fs::remove_dir(&path);
        }
    }
    Ok(())
}
