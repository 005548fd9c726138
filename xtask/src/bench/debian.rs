//! A whole Debian, as donjon's user has it, for every hypervisor: one image, an overlay of it for each boot, the same
//! kernel and initramfs.

use super::guest::{COMMAND_LINE, Guest};
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

/// The system and where its disks are.
pub struct Debian {
    pub guest: Guest,
    image: Stored,
    disk: PathBuf,
}

impl Debian {
    /// The user's image `debian`, made if it is not there. Files go into `directory`.
    pub fn prepare(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let store = Store::of_user()?;
        let name = "debian:bookworm";
        let image = match store.image(name) {
            Ok(image) => image,
            Err(_) => debian::build(&store, &Cache::of_user()?, "bookworm", name, &Console::new())?,
        };
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
        })
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
        Ok(c)
    }
}
