//! Submission and completion queue entries (NVM Express Base 1.4 §4.2, §4.6).

use crate::status::Status;
use serde::{Deserialize, Serialize};

/// Bytes of a submission queue entry.
pub const SQE: usize = 64;
/// Bytes of a completion queue entry.
pub const CQE: usize = 16;
/// The NSID that stands for all namespaces.
pub const ALL_NAMESPACES: u32 = u32::MAX;
/// The NSID of the only namespace.
pub const NAMESPACE: u32 = 1;

/// A command, as it was when it was fetched.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    pub opcode: u8,
    /// Bits 15:8 of the first double word: fused operation and how the buffer is described.
    flags: u8,
    pub cid: u16,
    pub nsid: u32,
    pub prp1: u64,
    pub prp2: u64,
    /// Command double words 10 to 15.
    words: [u32; 6],
}

impl Command {
    pub fn parse(entry: &[u8; SQE]) -> Self {
        let word = |n: usize| u32::from_le_bytes(entry[n * 4..][..4].try_into().expect("four bytes"));
        let long = |n: usize| u64::from(word(n)) | u64::from(word(n + 1)) << 32;
        Self {
            opcode: entry[0],
            flags: entry[1],
            cid: (word(0) >> 16) as u16,
            nsid: word(1),
            prp1: long(6),
            prp2: long(8),
            words: std::array::from_fn(|n| word(10 + n)),
        }
    }

    /// Command double word `n`, 10 to 15.
    pub fn dword(&self, n: usize) -> u32 {
        self.words[n - 10]
    }

    /// Command double words 10 and 11: where a transfer starts.
    pub fn lba(&self) -> u64 {
        u64::from(self.words[0]) | u64::from(self.words[1]) << 32
    }

    /// No fused operations and no SGLs are supported (§4.2.1: FUSE and PSDT).
    pub fn check_flags(&self) -> Result<(), Status> {
        if self.flags & 0b1100_0011 == 0 {
            Ok(())
        } else {
            Err(Status::INVALID_FIELD)
        }
    }
}

/// What a command came to, before it has a place in a completion queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Completion {
    pub cid: u16,
    /// Status field without the phase tag.
    pub status: u16,
    /// Double word 0.
    pub result: u32,
}

impl Completion {
    pub fn new(cid: u16, answer: Result<u32, Status>) -> Self {
        let (status, result) = match answer {
            Ok(result) => (Status::SUCCESS, result),
            Err(status) => (status, 0),
        };
        Self {
            cid,
            status: status.0,
            result,
        }
    }
}
