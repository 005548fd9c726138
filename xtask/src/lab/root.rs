//! The lab's own disks: a small system with busybox and our programs, and images for `donjon run`.

use super::contents::{Contents, Entry};
use super::disk;
use super::names::Peer;
use crate::bench::newc;
use crate::command::target_dir;
use anyhow::{Context, Result, bail};
use donjon_agent_binary::AGENT;
use donjon_host::images::{self, KernelWithModules};
use donjon_host::progress::Console;
use donjon_host::store::Store;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules of the lab's kernel, in the order in which others do not depend on it. The engine's come last.
pub const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "tun",
    "bridge",
    "unix",
    "loop",
    "overlay",
    "fuse",
    "kvm-amd",
];
/// Where the modules are.
pub const MODULE_DIRECTORY: &str = "lib/modules";
/// The program that is process 1: this one.
pub const INIT: &str = "/usr/sbin/lab";
/// The agent, through which programs are started.
pub const AGENT_PATH: &str = "/usr/sbin/donjon-agent";
/// Where `donjon` keeps images for root.
pub const IMAGES: &str = "/root/.local/share/donjon/images";
/// Our programs: their packages, by which the lab knows them, and the names that cargo gives them.
pub const PROGRAMS: [(&str, &str); 2] = [("donjon", "donjon"), ("donjon-conformance", "conformance")];
/// Room for what is done in the lab. The disk is sparse.
const FREE: u64 = 16 << 30;

const DIRECTORIES: [&str; 13] = [
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "mnt",
    "root/.local/share/donjon/images",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib64",
    "var/tmp",
    "etc",
];
const LINKS: [(&str, &str); 6] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("etc/mtab", "../proc/self/mounts"),
    ("var/run", "../run"),
];
const FILES: [(&str, &str); 5] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\ntty:x:5:\nkvm:x:107:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost lab\n::1 localhost\n"),
    ("etc/hostname", "lab\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

/// What the root disk has beside the system.
#[derive(Default)]
pub struct Extra<'a> {
    pub peers: &'a [Peer],
    /// Other programs: their paths in the lab and on the host.
    pub programs: &'a [(String, PathBuf)],
}

/// The kernel of the lab.
pub fn kernel() -> Result<KernelWithModules> {
    Ok(images::kernel_with("lab", MODULES, &Console::new())?)
}

/// The root disk.
pub fn disk(kernel: &KernelWithModules, extra: &Extra<'_>) -> Result<PathBuf> {
    let mut contents = Contents::default();
    for path in DIRECTORIES {
        contents.add(path, Entry::Directory);
    }
    for (path, target) in LINKS {
        contents.add(path, Entry::Link(target.into()));
    }
    for (path, text) in FILES {
        contents.add(path, Entry::Bytes(text.into()));
    }
    // The kernel opens it for process 1 before anything is mounted.
    contents.add("dev/console", Entry::Device(5, 1));
    let linker_cache = Path::new("/etc/ld.so.cache");
    if linker_cache.exists() {
        contents.add("etc/ld.so.cache", Entry::Host(linker_cache.into()));
    }
    let archive = std::fs::read(&kernel.modules)
        .with_context(|| format!("cannot read {}", kernel.modules.display()))?;
    for name in &kernel.order {
        let module = newc::find(&archive, &format!("modules/{name}"))?;
        contents.add(format!("{MODULE_DIRECTORY}/{name}"), Entry::Bytes(module.into()));
    }
    let order = kernel.order.join("\n");
    contents.add(format!("{MODULE_DIRECTORY}/order"), Entry::Bytes(order.into()));
    tiny(&mut contents)?;
    contents.add(AGENT_PATH.trim_start_matches('/'), Entry::Bytes(AGENT.into()));
    let myself = std::env::current_exe().context("cannot find the running program")?;
    contents.add_program(INIT.trim_start_matches('/'), &myself)?;
    for (package, binary) in PROGRAMS {
        let built = target_dir().join("release").join(binary);
        if !built.exists() {
            bail!("{} is not there; run this without --no-build", built.display());
        }
        contents.add_program(format!("usr/bin/{package}"), &built)?;
    }
    for Peer { name, path } in extra.peers {
        contents.add_program(format!("usr/bin/{name}"), path)?;
    }
    for (path, program) in extra.programs {
        contents.add_program(path.trim_start_matches('/'), program)?;
    }
    disk::of("root", &contents, FREE)
}

/// The image `tiny` where `donjon run` looks for it, and its busybox as the lab's.
fn tiny(contents: &mut Contents) -> Result<()> {
    let tiny = images::tiny(&Console::new())?;
    let directory = tiny.kernel.parent().context("the image tiny has no directory")?;
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    for file in std::fs::read_dir(directory)? {
        let file = file?;
        let path = format!(
            "root/.cache/donjon/images/{name}/{}",
            file.file_name().to_string_lossy()
        );
        contents.add(path, Entry::Host(file.path()));
    }
    let initrd =
        std::fs::read(&tiny.initrd).with_context(|| format!("cannot read {}", tiny.initrd.display()))?;
    let busybox = newc::find(&initrd, "bin/busybox")?;
    for applet in applets(busybox)? {
        contents.add(format!("usr/bin/{applet}"), Entry::Link("busybox".into()));
    }
    contents.add("usr/bin/busybox", Entry::Bytes(busybox.into()));
    Ok(())
}

/// What a busybox can be called. Only it knows.
fn applets(busybox: &[u8]) -> Result<Vec<String>> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(busybox)?;
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o700))?;
    // A file that is open for writing cannot be executed.
    let path = file.into_temp_path();
    let output = Command::new(&path)
        .arg0("busybox")
        .arg("--list")
        .output()
        .context("cannot start busybox")?;
    let list = String::from_utf8_lossy(&output.stdout);
    let applets: Vec<_> = list
        .lines()
        .filter(|a| *a != "busybox")
        .map(str::to_owned)
        .collect();
    if applets.is_empty() {
        bail!("busybox --list says nothing");
    }
    Ok(applets)
}

/// A disk for [`IMAGES`] with one image of the user's store.
pub fn images_disk(name: &str) -> Result<PathBuf> {
    let store = Store::of_user()?;
    let image = store
        .image(name)
        .or_else(|e| store.image(&format!("{name}:bookworm")).map_err(|_| e))?;
    let directory = image.disk.parent().context("the image has no directory")?;
    let mut contents = Contents::default();
    contents.add("names.json", Entry::Host(store.root().join("images/names.json")));
    for file in std::fs::read_dir(directory)? {
        let file = file?;
        let path = format!("{}/{}", image.image.id, file.file_name().to_string_lossy());
        contents.add(path, Entry::Host(file.path()));
    }
    disk::of("images", &contents, 1 << 30)
}
