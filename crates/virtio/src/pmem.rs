//! Persistent memory (virtio 1.2 §5.19): a file of the host as guest-physical memory.
//!
//! The file's bytes are [`donjon_memory::MemoryFile`], which guests load and store without any request; the one
//! request there is makes what they stored last.

mod service;
#[cfg(test)]
mod tests;

use crate::device::{Device, Notifier, kind, read_bytes};
use crate::queue::{Queue, QueueState};
use crate::service::Server;
use donjon_devices::state::Saved;
use donjon_devices::sync::Lock;
use donjon_devices::{Migrate, Record, RestoreError};
use donjon_memory::{Ram, RamRange};
use serde::{Deserialize, Serialize};
use service::Flusher;
use std::fs::File;
use std::sync::{Arc, OnceLock};

/// What Linux asks of where the memory begins and of its size, in bytes: it makes `struct page`s for pieces of that
/// size, and refuses others ("misaligned, unable to map").
pub const ALIGNMENT: u64 = 2 << 20;
const QUEUE_SIZE: u16 = 64;

/// The device.
pub struct Pmem {
    file: Arc<File>,
    range: RamRange,
    server: Lock<Option<Server<Flusher>>>,
    notifier: OnceLock<Arc<dyn Notifier>>,
}

/// What is saved of it. The file's bytes are not.
#[derive(Serialize, Deserialize)]
struct SavedPmem {
    start: u64,
    size: u64,
}

impl Saved for SavedPmem {
    const KIND: &'static str = "virtio-pmem";
    const VERSION: u16 = 1;
}

impl Pmem {
    /// A device for a file, if it is part of this memory.
    pub fn new(file: &Arc<File>, ram: &Ram) -> Option<Arc<Self>> {
        Some(Arc::new(Self {
            file: file.clone(),
            range: ram.file_range(file)?,
            server: Lock::default(),
            notifier: OnceLock::new(),
        }))
    }
}

impl Device for Pmem {
    fn kind(&self) -> u16 {
        kind::PMEM
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn connect(&self, notifier: Arc<dyn Notifier>) {
        // A transport connects once.
        let _ = self.notifier.set(notifier);
    }

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        let config = [self.range.address.to_le_bytes(), self.range.len.to_le_bytes()];
        read_bytes(config.as_flattened(), offset, out);
    }

    fn start(&self, _: u64) {
        match Server::start("pmem", Flusher::new(self.file.clone(), self.range)) {
            Ok(server) => *self.server.lock() = Some(server),
            Err(e) => {
                tracing::error!("persistent memory cannot be served: {e}");
                if let Some(notifier) = self.notifier.get() {
                    notifier.needs_reset();
                }
            }
        }
    }

    fn start_queue(&self, _: u16, queue: Queue) {
        if let Some(server) = &*self.server.lock() {
            server.with(|s| s.queue = Some(queue));
        }
    }

    fn stop_queue(&self, _: u16) -> Option<QueueState> {
        let server = self.server.lock();
        let queue = server.as_ref()?.with(|s| s.queue.take())??;
        Some(queue.state())
    }

    fn notify(&self, _: u16) {
        if let Some(server) = &*self.server.lock() {
            server.notify();
        }
    }

    fn reset(&self) {
        let server = self.server.lock().take();
        drop(server);
    }

    fn migrate(&self) -> Migrate {
        SavedPmem {
            start: self.range.address,
            size: self.range.len,
        }
        .save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let saved = SavedPmem::open(record)?;
        if (saved.start, saved.size) != (self.range.address, self.range.len) {
            return Err(SavedPmem::damaged(format!(
                "the guest had {:#x} bytes of persistent memory at {:#x}, and here are {:#x} at {:#x}",
                saved.size, saved.start, self.range.len, self.range.address
            )));
        }
        Ok(())
    }
}
