//! File system device (virtio 1.2 §5.11): a directory of the host, shared by FUSE requests.
//!
//! Queue 0 is for requests that must not wait behind others (FORGET), queue 1 for the rest. There is no second request
//! queue: any number of requests of one queue are under way at once.

mod pool;
#[cfg(test)]
mod tests;

use crate::device::{Device, Notifier, kind, read_bytes};
use crate::queue::{Queue, QueueState};
use donjon_devices::state::Saved;
use donjon_devices::sync::Lock;
use donjon_devices::{Migrate, Record, RestoreError};
use donjon_fs::{Limits, SavedSession, Server, Share};
use pool::Pool;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

/// The longest tag, bytes (virtio 1.2 §5.11.4).
pub const MAX_TAG: usize = 36;
/// Entries of each queue. Linux makes no request of more parts: a page each for 1 MiB, and headers.
const QUEUE_SIZE: u16 = 512;
/// Threads of each queue: as many requests can wait for the host's storage.
const THREADS: [usize; 2] = [1, 8];

/// What a guest mounts a file system by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tag(String);

/// No guest can mount anything by it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no tag: that has 1 to {MAX_TAG} bytes, none of them zero")]
pub struct BadTag(String);

impl FromStr for Tag {
    type Err = BadTag;

    fn from_str(text: &str) -> Result<Self, BadTag> {
        match (1..=MAX_TAG).contains(&text.len()) && !text.contains('\0') {
            true => Ok(Self(text.into())),
            false => Err(BadTag(text.into())),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The device.
pub struct Fs {
    tag: Tag,
    session: Arc<Server>,
    pools: [Lock<Option<Pool>>; 2],
    notifier: OnceLock<Arc<dyn Notifier>>,
}

/// What is saved of it.
#[derive(Serialize, Deserialize)]
struct SavedFs {
    tag: String,
    session: SavedSession,
}

impl Saved for SavedFs {
    const KIND: &'static str = "virtio-fs";
    const VERSION: u16 = 1;
}

impl Fs {
    /// A device that shares a directory by this tag.
    pub fn new(share: &Arc<Share>, tag: &Tag, limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            tag: tag.clone(),
            session: Arc::new(Server::new(share, limits)),
            pools: Default::default(),
            notifier: OnceLock::new(),
        })
    }
}

impl Device for Fs {
    fn kind(&self) -> u16 {
        kind::FS
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.pools.len()]
    }

    fn connect(&self, notifier: Arc<dyn Notifier>) {
        // A transport connects once.
        let _ = self.notifier.set(notifier);
    }

    /// virtio_fs_config (virtio 1.2 §5.11.4).
    fn read_config(&self, offset: usize, out: &mut [u8]) {
        let mut config = [0; MAX_TAG + 4];
        let tag = self.tag.0.as_bytes();
        config[..tag.len()].copy_from_slice(tag);
        config[MAX_TAG] = 1;
        read_bytes(&config, offset, out);
    }

    fn start(&self, _: u64) {}

    fn start_queue(&self, index: u16, queue: Queue) {
        let n = usize::from(index);
        match Pool::start(&format!("fs{index}"), THREADS[n], queue, &self.session) {
            Ok(pool) => *self.pools[n].lock() = Some(pool),
            Err(e) => {
                tracing::error!("a shared directory cannot be served: {e}");
                if let Some(notifier) = self.notifier.get() {
                    notifier.needs_reset();
                }
            }
        }
    }

    fn stop_queue(&self, index: u16) -> Option<QueueState> {
        let pool = self.pools[usize::from(index)].lock().take()?;
        Some(pool.stop().state())
    }

    fn notify(&self, index: u16) {
        if let Some(pool) = self.pools.get(usize::from(index))
            && let Some(pool) = &*pool.lock()
        {
            pool.notify();
        }
    }

    fn reset(&self) {
        for pool in &self.pools {
            let pool = pool.lock().take();
            drop(pool);
        }
        self.session.reset();
    }

    fn migrate(&self) -> Migrate {
        SavedFs {
            tag: self.tag.0.clone(),
            session: self.session.save(),
        }
        .save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let saved = SavedFs::open(record)?;
        if saved.tag != self.tag.0 {
            return Err(SavedFs::damaged(format!(
                "the guest had a shared directory with the tag {:?}, and this one has {:?}",
                saved.tag, self.tag.0
            )));
        }
        let restored = self.session.restore(&saved.session);
        restored.map_err(|e| SavedFs::damaged(format!("no session with a shared directory: {e}")))
    }
}
