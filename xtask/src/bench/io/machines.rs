//! The same disks and network interface, as arguments of each hypervisor.

use super::images::{DISKS, Images};
use super::namespace::TAP;
use clap::ValueEnum;
use std::process::Command;

/// The interface's address in the guest, so that the host need not look for it anew.
const MAC: &str = "52:54:00:00:77:02";
/// That of the interface in user mode. The guest knows both: see xtask/bench/io/init.
const USER_MAC: &str = "52:54:00:00:77:03";

/// What QEMU's `aio=` can be for images in the host's page cache.
#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Aio {
    /// io_uring(7).
    IoUring,
    /// A pool of threads.
    Threads,
}

/// `donjon run`, with devices.
pub fn donjon(c: &mut Command, images: &Images, net: bool) {
    for disk in &DISKS {
        let path = doubled(images, disk.serial);
        let bus = if disk.nvme { "nvme" } else { "virtio" };
        let options = format!("format={},bus={bus},serial={}", disk.format, disk.serial);
        c.args(["--disk", &format!("{path},{options}")]);
    }
    if net {
        c.args(["--net", &format!("tap={TAP},mac={MAC}")]);
    }
    c.args(["--net", &format!("user,host-loopback,mac={USER_MAC}")]);
}

/// QEMU, with devices. Writes go to the host's page cache in both, and a flush is fdatasync(2).
pub fn qemu(c: &mut Command, images: &Images, net: bool, aio: Aio) {
    let aio = match aio {
        Aio::IoUring => "io_uring",
        Aio::Threads => "threads",
    };
    // The default has no AVX.
    c.args(["-cpu", "max"]);
    for disk in &DISKS {
        let (path, serial) = (doubled(images, disk.serial), disk.serial);
        let how = format!("format={},cache=writeback,aio={aio},discard=unmap", disk.format);
        c.args(["-drive", &format!("file={path},if=none,id={serial},{how}")]);
        let device = if disk.nvme { "nvme" } else { "virtio-blk-pci" };
        c.args(["-device", &format!("{device},drive={serial},serial={serial}")]);
    }
    if net {
        let tap = format!("tap,id=net,ifname={TAP},script=no,downscript=no,vnet_hdr=on");
        c.args(["-netdev", &tap]);
        // Without firmware, which would look for something to boot.
        let device = format!("virtio-net-pci,netdev=net,mac={MAC},romfile=");
        c.args(["-device", &device]);
    }
    let device = format!("virtio-net-pci,netdev=user,mac={USER_MAC},romfile=");
    c.args(["-netdev", "user,id=user", "-device", &device]);
}

/// In both, a comma in a file's name is written twice.
fn doubled(images: &Images, serial: &str) -> String {
    images.path(serial).to_string_lossy().replace(',', ",,")
}
