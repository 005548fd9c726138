//! The error log (NVM Express Base 1.4 §5.14.1.1).

use crate::command::Command;
use crate::status::Status;
use donjon_devices::sync::Lock;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Entries that are kept.
pub const ENTRIES: usize = 16;
/// Bytes of an entry.
pub const ENTRY: usize = 64;
/// No part of the command in particular is to blame.
const NO_LOCATION: u16 = 0xffff;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Entry {
    count: u64,
    queue: u16,
    cid: u16,
    status: u16,
    nsid: u32,
    lba: u64,
}

/// The newest errors, and how many there were.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorLog {
    entries: VecDeque<Entry>,
    count: u64,
}

impl ErrorLog {
    /// Whether it can have come from here.
    pub fn is_sound(&self) -> bool {
        self.entries.len() <= ENTRIES
    }
}

/// Errors of all queues.
#[derive(Default)]
pub struct Errors(Lock<ErrorLog>);

impl Errors {
    /// Notes that a command failed; `lba` is of meaning for transfers only.
    pub fn note(&self, queue: u16, command: &Command, status: Status, lba: u64) {
        let mut log = self.0.lock();
        log.count = log.count.wrapping_add(1);
        let entry = Entry {
            count: log.count,
            queue,
            cid: command.cid,
            // With room for the phase tag.
            status: status.0 << 1,
            nsid: command.nsid,
            lba,
        };
        log.entries.truncate(ENTRIES - 1);
        log.entries.push_front(entry);
    }

    pub fn count(&self) -> u64 {
        self.0.lock().count
    }

    /// The log page, the newest error first.
    pub fn page(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(ENTRIES * ENTRY);
        for e in &self.0.lock().entries {
            let start = page.len();
            page.extend(e.count.to_le_bytes());
            for word in [e.queue, e.cid, e.status, NO_LOCATION] {
                page.extend(word.to_le_bytes());
            }
            page.extend(e.lba.to_le_bytes());
            page.extend(e.nsid.to_le_bytes());
            page.resize(start + ENTRY, 0);
        }
        page.resize(ENTRIES * ENTRY, 0);
        page
    }

    pub fn get(&self) -> ErrorLog {
        self.0.lock().clone()
    }

    pub fn set(&self, log: ErrorLog) {
        *self.0.lock() = log;
    }
}
