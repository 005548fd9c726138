//! Traditional memory balloon (virtio 1.2 §5.5).
//!
//! The driver allocates as much of the guest's memory as the host asks for, so that nobody uses it, and names the
//! pages: the host gets them back, until the guest touches them again. Free pages can be reported without that,
//! and statistics are told when asked for.

mod service;
mod statistics;
#[cfg(test)]
mod tests;

pub use statistics::Statistics;

use crate::device::{Device, Notifier, kind, read_bytes};
use crate::queue::{Queue, QueueState};
use crate::service::Server;
use donjon_devices::state::Saved;
use donjon_devices::sync::Lock;
use donjon_devices::{Migrate, Record, RestoreError};
use serde::{Deserialize, Serialize};
use service::{Queues, Role};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Entries of each queue.
const QUEUE_SIZE: u16 = 128;
/// Inflate, deflate, statistics, free page hints (not offered), reporting.
const QUEUES: usize = 5;
/// The unit of page numbers, whatever the guest's pages are.
const PAGE: u64 = 4096;

/// Feature bits (virtio 1.2 §5.5.3).
mod feature {
    pub const STATS_VQ: u64 = 1 << 1;
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub const REPORTING: u64 = 1 << 5;
}

#[derive(Default)]
struct State {
    /// What the host asks for, in pages.
    target: u32,
    /// What the driver says it has given, in pages.
    actual: u32,
    statistics: Option<(Instant, Statistics)>,
    /// Somebody wants new ones.
    asked: bool,
    /// The next buffer of statistics has been read before.
    known: bool,
}

/// What the device knows.
#[derive(Default)]
struct Memory(Lock<State>);

impl Deref for Memory {
    type Target = Lock<State>;
    fn deref(&self) -> &Lock<State> {
        &self.0
    }
}

/// The device.
#[derive(Default)]
pub struct Balloon {
    memory: Arc<Memory>,
    features: AtomicU64,
    server: Lock<Option<Server<Queues>>>,
    notifier: OnceLock<Arc<dyn Notifier>>,
}

/// What is saved of it.
#[derive(Serialize, Deserialize)]
struct SavedBalloon {
    target: u32,
    actual: u32,
    known: bool,
}

impl Saved for SavedBalloon {
    const KIND: &'static str = "virtio-balloon";
    const VERSION: u16 = 1;
}

impl Balloon {
    /// A device that asks for nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Asks the guest to give up this many bytes of its memory, all in all, rounded down to whole 4 KiB pages.
    /// It does so as far and as fast as it can: see [`Balloon::actual`].
    pub fn set_target(&self, bytes: u64) {
        self.memory.lock().target = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        if let Some(notifier) = self.notifier.get() {
            notifier.configuration_changed();
        }
    }

    /// What is asked for, in bytes.
    pub fn target(&self) -> u64 {
        u64::from(self.memory.lock().target) * PAGE
    }

    /// What the guest says it has given up, in bytes.
    pub fn actual(&self) -> u64 {
        u64::from(self.memory.lock().actual) * PAGE
    }

    /// What the driver told last, if it did. [`Balloon::ask_statistics`] gets newer ones.
    pub fn statistics(&self) -> Option<Statistics> {
        let (at, statistics) = self.memory.lock().statistics?;
        Some(Statistics {
            age: at.elapsed(),
            ..statistics
        })
    }

    /// Asks the driver for statistics. They come within milliseconds from a guest that is awake; their age tells.
    pub fn ask_statistics(&self) {
        self.memory.lock().asked = true;
        if let Some(server) = &*self.server.lock() {
            server.wake();
        }
    }

    /// What queue `index` is for. Drivers disagree on the number of the reporting queue when there is none for
    /// hints: by the specification it is 4, older Linux leaves no gaps.
    fn role(&self, index: u16) -> Option<Role> {
        let features = self.features.load(SeqCst);
        match index {
            0 => Some(Role::Inflate),
            1 => Some(Role::Deflate),
            2 if features & feature::STATS_VQ != 0 => Some(Role::Statistics),
            2..=4 if features & feature::REPORTING != 0 => Some(Role::Reporting),
            _ => None,
        }
    }

    /// virtio_balloon_config (virtio 1.2 §5.5.4).
    fn configuration(&self) -> [u8; 8] {
        let m = self.memory.lock();
        let (target, actual) = (m.target.to_le_bytes(), m.actual.to_le_bytes());
        [target, actual].concat().try_into().expect("eight bytes")
    }
}

impl Device for Balloon {
    fn kind(&self) -> u16 {
        kind::BALLOON
    }

    fn features(&self) -> u64 {
        feature::STATS_VQ | feature::DEFLATE_ON_OOM | feature::REPORTING
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn connect(&self, notifier: Arc<dyn Notifier>) {
        // A transport connects once.
        let _ = self.notifier.set(notifier);
    }

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        read_bytes(&self.configuration(), offset, out);
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let mut m = self.memory.lock();
        let mut actual = m.actual.to_le_bytes();
        for (n, byte) in data.iter().enumerate() {
            let at = offset.checked_add(n).and_then(|at| at.checked_sub(4));
            if let Some(b) = at.and_then(|at| actual.get_mut(at)) {
                *b = *byte;
            }
        }
        m.actual = u32::from_le_bytes(actual);
    }

    fn start(&self, features: u64) {
        self.features.store(features, SeqCst);
        match Server::start("balloon", Queues::new(&self.memory)) {
            Ok(server) => *self.server.lock() = Some(server),
            Err(e) => {
                tracing::error!("a memory balloon cannot be served: {e}");
                if let Some(notifier) = self.notifier.get() {
                    notifier.needs_reset();
                }
            }
        }
    }

    fn start_queue(&self, index: u16, queue: Queue) {
        if let Some(role) = self.role(index)
            && let Some(server) = &*self.server.lock()
        {
            server.with(|s| s.add(role, queue));
        }
    }

    fn stop_queue(&self, index: u16) -> Option<QueueState> {
        let server = self.server.lock();
        let queue = server.as_ref()?.with(|s| s.remove(index))??;
        Some(queue.state())
    }

    fn notify(&self, _: u16) {
        // Not on the vCPU's thread: the host takes its time to free memory.
        if let Some(server) = &*self.server.lock() {
            server.wake();
        }
    }

    fn reset(&self) {
        let server = self.server.lock().take();
        drop(server);
        let mut m = self.memory.lock();
        *m = State {
            target: m.target,
            ..State::default()
        };
    }

    fn migrate(&self) -> Migrate {
        let m = self.memory.lock();
        SavedBalloon {
            target: m.target,
            actual: m.actual,
            known: m.known,
        }
        .save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let saved = SavedBalloon::open(record)?;
        *self.memory.lock() = State {
            target: saved.target,
            actual: saved.actual,
            known: saved.known,
            ..State::default()
        };
        Ok(())
    }
}
