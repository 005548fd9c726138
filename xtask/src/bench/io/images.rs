//! The disks' images. Each block of 4 KiB begins with its own offset, which the rows check.

use crate::command::{command, run};
use crate::prerequisites::QEMU_IMG;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes of each disk.
const SIZE: u64 = 512 << 20;
const BLOCK: usize = 4 << 10;

/// A disk of the guests.
pub struct Disk {
    /// Its serial number, which the rows know it by.
    pub serial: &'static str,
    /// The image's format.
    pub format: &'static str,
    /// Whether it is an NVMe namespace and not a virtio block device.
    pub nvme: bool,
}

/// All of them.
pub const DISKS: [Disk; 5] = [
    disk("blk-raw", "raw", false),
    disk("blk-qcow2", "qcow2", false),
    disk(NEW, "qcow2", false),
    disk(OVERLAY, "qcow2", false),
    disk("nvme-raw", "raw", true),
];
const NEW: &str = "blk-new-qcow2";
const OVERLAY: &str = "blk-overlay";
/// What the overlay is over.
const BASE: &str = "base";

const fn disk(serial: &'static str, format: &'static str, nvme: bool) -> Disk {
    Disk { serial, format, nvme }
}

/// The images of all disks.
pub struct Images(PathBuf);

impl Images {
    /// Makes those that have content.
    pub fn make(directory: &Path) -> Result<Self> {
        // Nothing of earlier runs.
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let images = Self(directory.into());
        let raw = images.path("blk-raw");
        for path in [&raw, &images.path("nvme-raw")] {
            fill(path, SIZE).with_context(|| format!("cannot write {}", path.display()))?;
        }
        for name in ["blk-qcow2", BASE] {
            let mut c = command(QEMU_IMG.0, &["convert", "-f", "raw", "-O", "qcow2"]);
            run(c.arg(&raw).arg(images.path(name)))?;
        }
        Ok(images)
    }

    /// Makes those anew that the rows find empty.
    pub fn renew(&self) -> Result<()> {
        let qemu_img = || command(QEMU_IMG.0, &["create", "-q", "-f", "qcow2"]);
        run(qemu_img().arg(self.path(NEW)).arg(SIZE.to_string()))?;
        // Rows make files there that must not be.
        let _ = fs::remove_dir_all(self.shared());
        fs::create_dir(self.shared())?;
        let over = ["-b", BASE, "-F", "qcow2"];
        run(qemu_img().args(over).arg(self.path(OVERLAY)))
    }

    /// Reads everything once, so that the host's page cache has it.
    pub fn warm(&self) -> Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            if !path.is_file() {
                continue;
            }
            std::io::copy(&mut File::open(&path)?, &mut std::io::sink())
                .with_context(|| format!("cannot read {}", path.display()))?;
        }
        Ok(())
    }

    /// Where everything is.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// The directory that is shared with guests.
    pub fn shared(&self) -> PathBuf {
        self.0.join("shared")
    }

    /// Where a disk's image is.
    pub fn path(&self, serial: &str) -> PathBuf {
        self.0.join(serial)
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        // They are large. What cannot be removed now goes with the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn fill(path: &Path, size: u64) -> std::io::Result<()> {
    // Block by block: into the large folios that larger writes leave in the page cache, ext4 takes so long to write
    // that little else is measured.
    let mut out = File::create(path)?;
    // Not zeroes, of which images need not keep anything.
    let mut block = [0xa5; BLOCK];
    for at in (0..size).step_by(BLOCK) {
        block[..8].copy_from_slice(&at.to_le_bytes());
        out.write_all(&block)?;
    }
    out.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_begin_with_their_offsets() {
        let path = std::env::temp_dir().join(format!("donjon-bench-{}", std::process::id()));
        fill(&path, 3 * BLOCK as u64).unwrap();
        let content = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(content.len(), 3 * BLOCK);
        for (n, block) in content.chunks(BLOCK).enumerate() {
            assert_eq!(block[..8], ((n * BLOCK) as u64).to_le_bytes());
            assert_eq!(block[8..], [0xa5; BLOCK - 8]);
        }
    }
}
