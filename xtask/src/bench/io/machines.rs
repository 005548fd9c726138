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
    c.args([
        "--fs",
        &format!(
            "{},tag=bench",
            images.shared().to_string_lossy().replace(',', ",,")
        ),
    ]);
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

/// The daemon that serves QEMU's shared directories, where Debian has it.
pub fn virtiofsd() -> Option<&'static str> {
    let places = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];
    places.into_iter().find(|p| std::path::Path::new(p).exists())
}

/// A QEMU with a shared directory: its daemon is started before it, and ends with it.
pub fn with_directory(qemu: &Command, virtiofsd: &str, images: &Images, memory: u32) -> Command {
    let socket = images.directory().join("virtiofsd.sock");
    let script = "rm -f \"$1\"; \"$2\" --socket-path=\"$1\" -o source=\"$3\" -o cache=auto >/dev/null 2>&1 & \
                  shift 3; until [ -S \"$0\" ]; do sleep 0.02; done; exec \"$@\"";
    let mut c = Command::new("sh");
    c.args(["-c", script])
        .arg(&socket)
        .arg(&socket)
        .arg(virtiofsd)
        .arg(images.shared());
    c.arg(qemu.get_program()).args(qemu.get_args());
    c.args([
        "-object",
        &format!("memory-backend-memfd,id=ram,size={memory}M,share=on"),
    ]);
    c.args(["-numa", "node,memdev=ram"]);
    c.args(["-chardev", &format!("socket,id=fs,path={}", socket.display())]);
    c.args(["-device", "vhost-user-fs-pci,chardev=fs,tag=bench"]);
    c
}

/// In both, a comma in a file's name is written twice.
fn doubled(images: &Images, serial: &str) -> String {
    images.path(serial).to_string_lossy().replace(',', ",,")
}
