//! A whole Debian, as donjon's user has it, for every hypervisor: one image, an overlay of it for each boot, the same
//! kernel and initramfs.

use super::guest::{COMMAND_LINE, Guest};
use crate::prerequisites::find;
use anyhow::{Context, Result};
use donjon_agent_protocol::boot::{Root, Start};
use donjon_block::{Format, Options, manage, open};
use donjon_host::cache::Cache;
use donjon_host::disk_boot;
use donjon_host::images::debian;
use donjon_host::initramfs::{self, MODULES};
use donjon_host::progress::Console;
use donjon_host::store::{Store, Stored};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the console says when somebody is logged in.
pub const FIRST_LINE: &str = "automatic login";
/// What gives QEMU a vsock device where the host's kernel has none, and the crate that it is in.
pub const VSOCK: &str = "vhost-device-vsock";

/// The system and where its disks are.
pub struct Debian {
    pub guest: Guest,
    image: Stored,
    disk: PathBuf,
    vsock: Option<PathBuf>,
}

impl Debian {
    /// The user's image `debian`, made if it is not there. Files go into `directory`.
    pub fn prepare(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let store = Store::of_user()?;
        let name = "debian:bookworm";
        // Whenever it came.
        let since = 0;
        let image = debian::build(
            &store,
            &Cache::of_user()?,
            "bookworm",
            name,
            since,
            &Console::new(),
        )?;
        let options = Options {
            format: Some(Format::Qcow2),
            read_only: true,
            ..Options::default()
        };
        let system = disk_boot::find(&open(&image.disk, &options)?, MODULES)?;
        println!(
            "image: {}, Linux {}",
            system.name.unwrap_or_default(),
            system.release
        );
        let root = Root {
            device: system.root.device("/dev/vda"),
            fstype: system.file_system.into(),
            read_only: false,
            options: String::new(),
            overlay: false,
            wait_seconds: 30,
        };
        let start = Start::SwitchRoot {
            init: "/sbin/init".into(),
            first_boot: None,
            shares: vec![],
        };
        let mut initrd = initramfs::of_modules(&system.modules)?;
        let names = system.modules.into_iter().map(|(name, _)| name).collect();
        initrd.extend(initramfs::of_agent(
            donjon_agent_binary::AGENT,
            names,
            root,
            start,
        )?);
        let (kernel, initramfs) = (directory.join("vmlinuz"), directory.join("initrd"));
        std::fs::write(&kernel, system.kernel)?;
        std::fs::write(&initramfs, initrd)?;
        Ok(Self {
            guest: Guest {
                kernel,
                initrd: initramfs,
                command_line: format!("{COMMAND_LINE} net.ifnames=0"),
                memory: 1024,
                cpus: 1,
            },
            image,
            disk: directory.join("disk.qcow2"),
            vsock: find(VSOCK).map(|_| directory.join("vsock")),
        })
    }

    /// The socket of the vsock device, on the way to the agent. There is none if QEMU cannot have one.
    pub fn vsock(&self) -> Option<&Path> {
        self.vsock.as_deref()
    }

    /// A disk that nothing was written to.
    fn renew(&self) -> Result<&str> {
        let below = self.image.disk.to_str().context("a path that is text")?;
        let how = manage::Creation {
            force: true,
            ..manage::Creation::default()
        };
        manage::overlay(&self.disk, below, Some(Format::Qcow2), None, &how)?;
        self.disk.to_str().context("a path that is text")
    }

    /// In donjon.
    pub fn donjon(&self) -> Result<Command> {
        let mut c = self.guest.donjon();
        c.args([
            "--disk",
            &format!("{},format=qcow2", self.renew()?.replace(',', ",,")),
            "--net",
            "user",
        ]);
        if let Some(vsock) = &self.vsock {
            c.arg("--vsock").arg(vsock);
        }
        Ok(c)
    }

    /// In QEMU's TCG.
    pub fn tcg(&self) -> Result<Command> {
        let mut c = self.guest.tcg();
        let disk = self.renew()?.replace(',', ",,");
        // The default has no AVX.
        c.args(["-cpu", "max"]);
        c.args([
            "-drive",
            &format!("file={disk},if=none,id=root,format=qcow2,cache=writeback,aio=io_uring"),
        ]);
        c.args([
            "-device",
            "virtio-blk-pci,drive=root",
            "-device",
            "virtio-rng-pci",
        ]);
        c.args([
            "-netdev",
            "user,id=net",
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
        ]);
        Ok(match &self.vsock {
            Some(vsock) => self.with_vsock(&c, vsock),
            None => c,
        })
    }

    /// A QEMU with a vsock device that has a socket like ours: its daemon is started before it, and ends with it.
    fn with_vsock(&self, qemu: &Command, vsock: &Path) -> Command {
        let device = vsock.with_extension("device");
        let script = "rm -f \"$1\" \"$2\"; setpriv --pdeathsig KILL \"$0\" --guest-cid 3 --socket \"$1\" --uds-path \"$2\" \
                      >/dev/null 2>&1 & device=$1; shift 2; until [ -S \"$device\" ]; do sleep 0.01; done; exec \"$@\"";
        let mut c = Command::new("sh");
        c.args(["-c", script, VSOCK]).arg(&device).arg(vsock);
        c.arg(qemu.get_program()).args(qemu.get_args());
        let memory = self.guest.memory;
        c.args([
            "-object",
            &format!("memory-backend-memfd,id=ram,size={memory}M,share=on"),
        ]);
        c.args(["-numa", "node,memdev=ram"]);
        c.args(["-chardev", &format!("socket,id=vsock,path={}", device.display())]);
        c.args(["-device", "vhost-user-vsock-pci,chardev=vsock"]);
        c
    }
}
