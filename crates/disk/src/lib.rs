//! A disk as the device in front of it sees it: an image, a limit, and requests that are under way.
//!
//! A [`Disk`] is shared by all queues of its device; each has a [`Requests`] of its own. A request goes straight
//! between guest RAM and the image's file by io_uring where the range lies in one piece in a file; everything else
//! (clusters to allocate, backing files, compressed clusters) the image does itself, on the queue's thread or,
//! where that may take long, on one of the disk's workers.
#![forbid(unsafe_code)]

mod guest;
mod requests;
#[cfg(test)]
mod tests;
mod workers;

pub use requests::{Operation, Request, Requests};

use donjon_block::Image;
use donjon_limit::{Limit, Limiter};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use workers::Workers;

/// The unit of offsets and lengths that guests use.
pub const SECTOR: u64 = 512;

/// An image in use.
pub struct Disk {
    image: Arc<Image>,
    serial: String,
    limiter: Limiter,
    workers: Workers,
    background: bool,
    /// Writes wait for room.
    full: AtomicBool,
    heard: OnceLock<Box<dyn Fn(bool) + Send + Sync>>,
}

impl Disk {
    /// A disk on `image` with a serial number that guests see.
    pub fn new(image: Arc<Image>, serial: impl Into<String>, limit: Limit) -> Arc<Self> {
        Self::build(image, serial.into(), limit, true)
    }

    /// As [`Disk::new`], without io_uring.
    pub fn without_io_uring(image: Arc<Image>, serial: impl Into<String>, limit: Limit) -> Arc<Self> {
        Self::build(image, serial.into(), limit, false)
    }

    fn build(image: Arc<Image>, serial: String, limit: Limit, background: bool) -> Arc<Self> {
        Arc::new(Self {
            workers: Workers::default(),
            limiter: Limiter::new(Instant::now(), limit),
            image,
            serial,
            background,
            full: AtomicBool::new(false),
            heard: OnceLock::new(),
        })
    }

    /// The image.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// The serial number.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Bytes, whole sectors.
    pub fn size(&self) -> u64 {
        self.image.size()
    }

    /// Whether guests may not write.
    pub fn read_only(&self) -> bool {
        self.image.read_only()
    }

    /// Whether the guest's writes wait because the host's file system is full.
    pub fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// Whom to tell when that changes. Can be set once.
    pub fn on_full(&self, heard: impl Fn(bool) + Send + Sync + 'static) {
        // A second one is ignored: a disk has one owner.
        let _ = self.heard.set(Box::new(heard));
    }

    fn set_full(&self, full: bool) {
        if self.is_full() != full
            && self.full.swap(full, Relaxed) != full
            && let Some(heard) = self.heard.get()
        {
            heard(full);
        }
    }

    /// What it may do.
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }
}
