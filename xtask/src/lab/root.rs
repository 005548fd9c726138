//! The lab's own disks: a small system with busybox and our programs, and images for `donjon run`.

use super::contents::{Contents, Entry};
use super::disk;
use super::names::Peer;
use crate::bench::newc;
use crate::command::target_dir;
use anyhow::{Context, Result, bail};
use donjon_agent_binary::AGENT;
use donjon_host::cache::Cache;
use donjon_host::images::{self, KernelWithModules};
use donjon_host::progress::Console;
use donjon_host::store::{Kind, Store, Stored};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules that the lab's kernel loads at its start, each of which takes time. NVMe and ext4 are built in.
const MODULES: &[&str] = &["virtio_pci", "virtio_console", "virtio_blk", "tun", "kvm-amd"];
/// Where the modules are.
pub const MODULE_DIRECTORY: &str = "lib/modules";
/// The program that is process 1: this one.
pub const INIT: &str = "/usr/sbin/lab";
/// The agent, through which programs are started.
pub const AGENT_PATH: &str = "/usr/sbin/donjon-agent";
/// The cache of `donjon` for root.
const CACHE: &str = "root/.cache/donjon";
/// Where `donjon` keeps images for root.
pub const IMAGES: &str = "/root/.local/share/donjon/images";
/// Our programs: their packages, by which the lab knows them, and the names that cargo gives them.
pub const PROGRAMS: [(&str, &str); 2] = [("donjon", "donjon"), ("donjon-conformance", "conformance")];
/// Room for what is done in the lab, and beside an image. Disks are sparse.
const FREE: u64 = 16 << 30;
const IMAGES_FREE: u64 = 1 << 30;

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

/// How our programs are built.
#[derive(Clone, Copy, Default)]
pub enum Profile {
    #[default]
    Release,
    Dev,
}

impl Profile {
    /// Its name for cargo.
    pub fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "dev",
        }
    }

    fn directory(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "debug",
        }
    }
}

/// What the root disk has beside the system.
#[derive(Default)]
pub struct Extra<'a> {
    pub profile: Profile,
    pub peers: &'a [Peer],
    /// Other programs: their paths in the lab and on the host.
    pub programs: &'a [(String, PathBuf)],
    /// What [`images_disk`] has.
    pub image: Option<&'a Stored>,
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
    let tiny = images::tiny(&Console::new())?;
    add_cached(&mut contents, &tiny.kernel)?;
    add_busybox(&mut contents, &tiny.initrd)?;
    if extra
        .image
        .is_some_and(|i| matches!(i.image.kind, Kind::Container(_)))
    {
        add_cached(&mut contents, &images::container_kernel(&Console::new())?.kernel)?;
    }
    contents.add(AGENT_PATH.trim_start_matches('/'), Entry::Bytes(AGENT.into()));
    let myself = std::env::current_exe().context("cannot find the running program")?;
    contents.add_program(INIT.trim_start_matches('/'), &myself)?;
    for (package, binary) in PROGRAMS {
        let built = target_dir().join(extra.profile.directory()).join(binary);
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

/// What the user's cache has beside this file, where root's cache is in the lab.
fn add_cached(contents: &mut Contents, kernel: &Path) -> Result<()> {
    let cache = Cache::of_user()?;
    let directory = kernel.parent().context("a cached kernel has no directory")?;
    for file in
        std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?
    {
        let path = file?.path();
        let below = path.strip_prefix(cache.root())?;
        contents.add(format!("{CACHE}/{}", below.display()), Entry::Host(path.clone()));
    }
    Ok(())
}

/// The busybox of an initramfs, by all its names.
fn add_busybox(contents: &mut Contents, initrd: &Path) -> Result<()> {
    let initrd = std::fs::read(initrd).with_context(|| format!("cannot read {}", initrd.display()))?;
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

/// An image of the user's store, by its name; that of a Debian may be without its suite, as for `donjon run`.
pub fn image(name: &str) -> Result<Stored> {
    let store = Store::of_user()?;
    let found = match name {
        "debian" => store.image("debian:bookworm"),
        name => store.image(name),
    };
    Ok(found?)
}

/// A disk for [`IMAGES`] with one image.
pub fn images_disk(image: &Stored) -> Result<PathBuf> {
    let directory = image.disk.parent().context("an image has no directory")?;
    let names = Store::of_user()?.root().join("images/names.json");
    let mut contents = Contents::default();
    contents.add("names.json", Entry::Host(names));
    for file in
        std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?
    {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        contents.add(format!("{}/{name}", image.image.id), Entry::Host(path.clone()));
    }
    disk::of("images", &contents, IMAGES_FREE)
}
