//! The lab's machine: QEMU, whose TCG has AMD's virtualization.

use super::root;
use crate::bench::tail;
use crate::command::shown;
use crate::prerequisites::{QEMU, SETPRIV};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What it is made of.
pub struct Spec {
    pub cpus: u32,
    /// As QEMU takes it, such as `4G`.
    pub memory: String,
    /// Guest time is a count of instructions.
    pub icount: bool,
    /// A bzImage.
    pub kernel: PathBuf,
    pub root: PathBuf,
    /// A disk for [`root::IMAGES`].
    pub images: Option<PathBuf>,
    /// Disks of the user, written to: `/dev/vda` and so on.
    pub disks: Vec<PathBuf>,
    /// Conversations with it.
    pub ports: usize,
}

impl Spec {
    /// The usual one, with nothing but a kernel.
    pub fn of(kernel: PathBuf) -> Self {
        Self {
            cpus: 2,
            memory: "4G".into(),
            icount: false,
            kernel,
            root: PathBuf::new(),
            images: None,
            disks: vec![],
            ports: 0,
        }
    }
}

/// A machine that runs. It is killed when this is dropped, and when this process ends.
pub struct Machine {
    child: Arc<Mutex<Child>>,
    directory: tempfile::TempDir,
    timed_out: Arc<AtomicBool>,
}

impl Machine {
    /// Starts it, for at most `timeout`.
    pub fn start(spec: &Spec, timeout: Option<Duration>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("donjon-lab-").tempdir()?;
        let mut command = command(spec, directory.path());
        let child = command
            .stdin(Stdio::null())
            // It prints what is wrong with its arguments.
            .stdout(Stdio::null())
            // Keys that end this process must not end it first: it has something to tell then.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start: {}", shown(&command)))?;
        let machine = Self {
            child: Arc::new(Mutex::new(child)),
            directory,
            timed_out: Arc::default(),
        };
        if let Some(time) = timeout {
            let (child, timed_out) = (machine.child.clone(), machine.timed_out.clone());
            thread::spawn(move || {
                thread::sleep(time);
                timed_out.store(true, SeqCst);
                kill(&child);
            });
        }
        Ok(machine)
    }

    /// Where a conversation's socket is.
    pub fn socket(&self, port: usize) -> PathBuf {
        socket(self.directory.path(), port)
    }

    /// Whether it was ended because it took too long.
    pub fn timed_out(&self) -> bool {
        self.timed_out.load(SeqCst)
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(child.try_wait(), Ok(None))
    }

    /// The last that its kernel said.
    pub fn last_words(&self) -> String {
        let log = fs::read(console(self.directory.path())).unwrap_or_default();
        tail(&String::from_utf8_lossy(&log))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        kill(&self.child);
    }
}

fn kill(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    // It may have ended already.
    let _ = child.kill();
    let _ = child.wait();
}

fn socket(directory: &Path, port: usize) -> PathBuf {
    directory.join(format!("port{port}"))
}

fn console(directory: &Path) -> PathBuf {
    directory.join("console")
}

fn command(spec: &Spec, directory: &Path) -> Command {
    // The kernel ends it when this process is gone, however that went.
    let mut c = Command::new(SETPRIV.0);
    c.args(["--pdeathsig", "KILL", "--", QEMU.0]);
    let threads = if spec.icount { "single" } else { "multi" };
    c.args(["-M", "q35", "-accel", &format!("tcg,thread={threads}")]);
    if spec.icount {
        // An instruction is a nanosecond, and who sleeps wakes at once.
        c.args(["-icount", "shift=0,sleep=off"]);
    }
    // Page tables of five levels are what few hosts have.
    c.args(["-cpu", "max,la57=off"]);
    c.args(["-smp", &spec.cpus.to_string(), "-m", &spec.memory]);
    c.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    c.arg("-serial").arg(option("file:", &console(directory), ""));
    c.arg("-kernel").arg(&spec.kernel);
    c.args(["-append", &command_line(spec)]);
    // Before other virtio devices: the first one's ports are those of number 0.
    c.args(["-device", "virtio-serial-pci"]);
    c.args(["-device", "nvme,id=nvme,serial=lab"]);
    for (n, disk) in std::iter::once(&spec.root).chain(&spec.images).enumerate() {
        // The files stay as they are; what is written is forgotten.
        let facts = format!(",if=none,id=own{n},format=raw,snapshot=on");
        c.arg("-drive").arg(option("file=", disk, &facts));
        c.args([
            "-device",
            &format!("nvme-ns,bus=nvme,drive=own{n},nsid={}", n + 1),
        ]);
    }
    for (n, disk) in spec.disks.iter().enumerate() {
        let qcow2 = disk.extension().is_some_and(|e| e == "qcow2");
        let format = if qcow2 { "qcow2" } else { "raw" };
        let facts = format!(",if=none,id=disk{n},format={format}");
        c.arg("-drive").arg(option("file=", disk, &facts));
        c.args(["-device", &format!("virtio-blk-pci,drive=disk{n}")]);
    }
    for port in 1..=spec.ports {
        let end = format!(",server=on,wait=off,id=port{port}");
        c.arg("-chardev")
            .arg(option("socket,path=", &socket(directory, port), &end));
        c.args(["-device", &format!("virtserialport,chardev=port{port},nr={port}")]);
    }
    c
}

fn command_line(spec: &Spec) -> String {
    let mut line = "console=ttyS0 quiet cryptomgr.notests mitigations=off nokaslr panic=-1 \
                    root=/dev/nvme0n1 rootfstype=ext4 rootwait rw "
        .to_owned();
    line += &format!("init={} -- lab-init --ports {}", root::INIT, spec.ports);
    if spec.images.is_some() {
        line += " --images";
    }
    line
}

/// An option of QEMU with a path in it, where commas are doubled.
fn option(before: &str, path: &Path, after: &str) -> String {
    format!("{before}{}{after}", path.to_string_lossy().replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            root: "/r".into(),
            disks: vec!["/a,b.raw".into(), "/c.qcow2".into()],
            ports: 3,
            ..Spec::of("/k".into())
        }
    }

    #[test]
    fn every_disk_and_port_is_there() {
        let line = shown(&command(&spec(), Path::new("/d")));
        for part in [
            "file=/r,if=none,id=own0,format=raw,snapshot=on",
            "file=/a,,b.raw,if=none,id=disk0,format=raw ",
            "file=/c.qcow2,if=none,id=disk1,format=qcow2 ",
            "path=/d/port3,",
            "nr=3",
            "lab-init --ports 3 ",
            "thread=multi",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(!line.contains("icount") && !line.contains("--images"), "{line}");
    }

    #[test]
    fn counted_instructions_need_one_thread() {
        let spec = Spec {
            icount: true,
            images: Some("/i".into()),
            ..spec()
        };
        let line = shown(&command(&spec, Path::new("/d")));
        for part in ["thread=single", "-icount shift=0", "own1,nsid=2", "--images"] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}
