//! Requests in the ring (virtio 1.2 §5.2.6).

use super::MOST_ZEROED;
use crate::queue::Chain;
use donjon_disk::{Disk, Operation, SECTOR};
use donjon_memory::Scatter;
use std::io;

/// Request types.
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// Status bytes.
mod status {
    pub const OK: u8 = 0;
    pub const IOERR: u8 = 1;
    pub const UNSUPP: u8 = 2;
}

const HEADER: usize = 16;
/// Bytes of a discard or write-zeroes segment.
const SEGMENT: usize = 16;
/// Bytes of the serial number.
const ID: usize = 20;
/// Flag of a segment: the room may be given back.
const UNMAP: u32 = 1;

/// What a buffer asks for.
pub enum Parsed {
    /// Something of the disk.
    Disk {
        offset: u64,
        operation: Operation,
        status: Scatter,
        written: u32,
    },
    /// It has been answered.
    Answered { written: u32 },
    /// Nothing that can be answered.
    Malformed(&'static str),
}

/// The status byte for a result.
pub fn status_of(result: &io::Result<()>) -> u8 {
    match result {
        Ok(()) => status::OK,
        Err(e) if e.kind() == io::ErrorKind::Unsupported => status::UNSUPP,
        Err(_) => status::IOERR,
    }
}

/// Makes sense of a buffer.
pub fn parse(disk: &Disk, chain: Chain) -> Parsed {
    let Chain {
        readable, writable, ..
    } = chain;
    if readable.len() < HEADER {
        return Parsed::Malformed("a block request has no header");
    }
    let Some(data_len) = writable.len().checked_sub(1) else {
        return Parsed::Malformed("a block request has no room for its status");
    };
    let mut header = [0; HEADER];
    readable.load(0, &mut header);
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
    let status = writable.slice(data_len..data_len + 1);
    let answer = |code: u8, written: usize| {
        status.store(0, &[code]);
        Parsed::Answered {
            written: written as u32 + 1,
        }
    };
    let (offset, operation, written) = match word(0) {
        kind::IN => {
            let Some(offset) = sector.checked_mul(SECTOR) else {
                return answer(status::IOERR, 0);
            };
            (
                offset,
                Operation::Read(writable.slice(0..data_len)),
                data_len as u32,
            )
        }
        kind::OUT => {
            let Some(offset) = sector.checked_mul(SECTOR) else {
                return answer(status::IOERR, 0);
            };
            (
                offset,
                Operation::Write(readable.slice(HEADER..readable.len())),
                0,
            )
        }
        kind::FLUSH => (0, Operation::Flush, 0),
        kind::GET_ID => {
            let mut id = [0; ID];
            let serial = disk.serial().as_bytes();
            let len = serial.len().min(ID);
            id[..len].copy_from_slice(&serial[..len]);
            let room = data_len.min(ID);
            writable.store(0, &id[..room]);
            return answer(status::OK, room);
        }
        kind @ (kind::DISCARD | kind::WRITE_ZEROES) => match segment(&readable, kind) {
            Some((offset, operation)) => (offset, operation, 0),
            None => return answer(status::IOERR, 0),
        },
        _ => return answer(status::UNSUPP, 0),
    };
    Parsed::Disk {
        offset,
        operation,
        status,
        written,
    }
}

/// The one segment of a discard or write-zeroes request.
fn segment(readable: &Scatter, kind: u32) -> Option<(u64, Operation)> {
    if readable.len() != HEADER + SEGMENT {
        return None;
    }
    let mut s = [0; SEGMENT];
    readable.load(HEADER, &mut s);
    let sector = u64::from_le_bytes(s[..8].try_into().expect("eight bytes"));
    let count = u32::from_le_bytes(s[8..12].try_into().expect("four bytes"));
    let flags = u32::from_le_bytes(s[12..].try_into().expect("four bytes"));
    let len = u64::from(count) * SECTOR;
    let known = if kind == kind::DISCARD { 0 } else { UNMAP };
    if count > MOST_ZEROED || flags & !known != 0 {
        return None;
    }
    let operation = if kind == kind::DISCARD {
        Operation::Discard { len }
    } else {
        Operation::WriteZeroes {
            len,
            unmap: flags & UNMAP != 0,
        }
    };
    Some((sector.checked_mul(SECTOR)?, operation))
}
