//! Commands of the NVM command set (NVM Express NVM Command Set 1.0 §3.2).

use crate::command::{ALL_NAMESPACES, Command, NAMESPACE};
use crate::prp;
use crate::shared::Shared;
use crate::status::Status;
use donjon_disk::{Disk, Operation, SECTOR};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::SeqCst;

mod opcode {
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
}

/// The opcodes above, each with whether it changes what is on the disk.
pub const OPCODES: [(u8, bool); 5] = [
    (opcode::FLUSH, false),
    (opcode::WRITE, true),
    (opcode::READ, false),
    (opcode::WRITE_ZEROES, true),
    (opcode::DATASET_MANAGEMENT, true),
];

/// The most bytes that a command transfers: 1 MiB, as MDTS says.
pub const MAX_TRANSFER: usize = 1 << 20;
/// Deallocations of more are done piece by piece, so that each takes a bounded time.
const MAX_DISCARD: u64 = 1 << 30;
/// Force Unit Access, in command double word 12.
const FUA: u32 = 1 << 30;
/// Deallocate, in double word 12 of Write Zeroes.
const DEAC: u32 = 1 << 25;
/// Deallocate, in double word 11 of Dataset Management.
const DEALLOCATE: u32 = 1 << 2;
/// Bytes of a range of Dataset Management.
const RANGE: usize = 16;

/// What the health log counts a command as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Read,
    Write,
    Other,
}

/// What a command comes to.
pub struct Work {
    pub kind: Kind,
    pub sectors: u64,
    /// A flush comes after it.
    durable: bool,
    /// Ranges still to be deallocated: offset and length.
    ranges: VecDeque<(u64, u64)>,
}

impl Work {
    fn new(kind: Kind, sectors: u64, durable: bool) -> Self {
        Self {
            kind,
            sectors,
            durable,
            ranges: VecDeque::new(),
        }
    }

    /// What is to be done next, after a step that went well. Deallocation is a hint: when the queue is being
    /// stopped the rest of it is left out.
    pub fn next(&mut self, stopping: bool) -> Option<(u64, Operation)> {
        if std::mem::take(&mut self.durable) {
            return Some((0, Operation::Flush));
        }
        if stopping {
            return None;
        }
        let (offset, len) = self.ranges.front_mut()?;
        let (at, n) = (*offset, (*len).min(MAX_DISCARD));
        *offset += n;
        *len -= n;
        if *len == 0 {
            self.ranges.pop_front();
        }
        // Not a discard: what is deallocated has to read as zeroes (DLFEAT).
        Some((at, Operation::WriteZeroes { len: n, unmap: true }))
    }
}

/// What is to be done with a command.
pub enum Parsed {
    /// Nothing.
    Done,
    /// This first, at this offset; then what the work says.
    Work(Work, u64, Operation),
}

/// Makes sense of a command.
pub fn parse(shared: &Shared, c: &Command) -> Result<Parsed, Status> {
    c.check_flags()?;
    let disk = &shared.disk;
    if c.opcode == opcode::FLUSH {
        if c.nsid != NAMESPACE && c.nsid != ALL_NAMESPACES {
            return Err(Status::INVALID_NAMESPACE);
        }
        return Ok(Parsed::Work(
            Work::new(Kind::Other, 0, false),
            0,
            Operation::Flush,
        ));
    }
    if !OPCODES.iter().any(|(code, _)| *code == c.opcode) {
        return Err(Status::INVALID_OPCODE);
    }
    if c.nsid != NAMESPACE {
        return Err(Status::INVALID_NAMESPACE);
    }
    if c.opcode != opcode::READ && disk.read_only() {
        return Err(Status::WRITE_PROTECTED);
    }
    if c.opcode == opcode::DATASET_MANAGEMENT {
        return dataset_management(shared, c);
    }
    let sectors = u64::from(c.dword(12) & 0xffff) + 1;
    let (len, forced) = (sectors * SECTOR, c.dword(12) & FUA != 0);
    let transfer = |prp1, prp2| {
        if len > MAX_TRANSFER as u64 {
            return Err(Status::INVALID_FIELD);
        }
        prp::resolve(&shared.ram, prp1, prp2, len as usize)
    };
    let offset = place(disk, c.lba(), sectors)?;
    let durable = forced || c.opcode != opcode::READ && !shared.write_cache.load(SeqCst);
    let (kind, operation) = match c.opcode {
        opcode::READ => {
            let list = transfer(c.prp1, c.prp2)?;
            (Kind::Read, Operation::Read(prp::writable(list)?))
        }
        opcode::WRITE => (Kind::Write, Operation::Write(transfer(c.prp1, c.prp2)?)),
        _ => {
            let unmap = c.dword(12) & DEAC != 0;
            (Kind::Other, Operation::WriteZeroes { len, unmap })
        }
    };
    Ok(Parsed::Work(Work::new(kind, sectors, durable), offset, operation))
}

/// The offset of `lba`; all `sectors` from there on must be on the disk.
fn place(disk: &Disk, lba: u64, sectors: u64) -> Result<u64, Status> {
    let end = lba.checked_add(sectors);
    if end.is_some_and(|end| end <= disk.size() / SECTOR) {
        Ok(lba * SECTOR)
    } else {
        Err(Status::LBA_OUT_OF_RANGE)
    }
}

fn dataset_management(shared: &Shared, c: &Command) -> Result<Parsed, Status> {
    let count = (c.dword(10) & 0xff) as usize + 1;
    let mut list = vec![0; count * RANGE];
    prp::resolve(&shared.ram, c.prp1, c.prp2, list.len())?.load(0, &mut list);
    let mut ranges = VecDeque::new();
    for r in list.chunks_exact(RANGE) {
        let sectors = u32::from_le_bytes(r[4..8].try_into().expect("four bytes")).into();
        let lba = u64::from_le_bytes(r[8..].try_into().expect("eight bytes"));
        let offset = place(&shared.disk, lba, sectors)?;
        if sectors != 0 {
            ranges.push_back((offset, sectors * SECTOR));
        }
    }
    // The other attributes are hints of which nothing is made.
    if c.dword(11) & DEALLOCATE == 0 {
        return Ok(Parsed::Done);
    }
    let mut work = Work::new(Kind::Other, 0, false);
    work.ranges = ranges;
    Ok(match work.next(false) {
        Some((offset, operation)) => Parsed::Work(work, offset, operation),
        None => Parsed::Done,
    })
}
