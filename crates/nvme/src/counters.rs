//! What the SMART / Health log counts (NVM Express Base 1.4 §5.14.1.2).

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counts, while queues add to them.
#[derive(Default)]
pub struct Counters {
    pub read_sectors: AtomicU64,
    pub written_sectors: AtomicU64,
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    pub media_errors: AtomicU64,
}

/// The counts as they are saved.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counts {
    pub read_sectors: u64,
    pub written_sectors: u64,
    pub reads: u64,
    pub writes: u64,
    pub media_errors: u64,
}

impl Counters {
    pub fn get(&self) -> Counts {
        Counts {
            read_sectors: self.read_sectors.load(Relaxed),
            written_sectors: self.written_sectors.load(Relaxed),
            reads: self.reads.load(Relaxed),
            writes: self.writes.load(Relaxed),
            media_errors: self.media_errors.load(Relaxed),
        }
    }

    pub fn set(&self, counts: &Counts) {
        self.read_sectors.store(counts.read_sectors, Relaxed);
        self.written_sectors.store(counts.written_sectors, Relaxed);
        self.reads.store(counts.reads, Relaxed);
        self.writes.store(counts.writes, Relaxed);
        self.media_errors.store(counts.media_errors, Relaxed);
    }
}
