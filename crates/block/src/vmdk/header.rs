//! The header of a sparse extent ("Virtual Disk Format 5.0", "Hosted Sparse Extent Header").

use super::SECTOR;
use crate::error::{Corrupt, OpenError};
use std::path::Path;

pub(super) const MAGIC: &[u8] = b"KDMV";
/// Where the grain directory is said to be if only the footer knows.
const AT_END: u64 = u64::MAX;

/// Flags.
const NEWLINES: u32 = 1 << 0;
const ZEROED_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;

/// Most entries of a grain table, as QEMU has it; there is no other number in use.
const MAX_ENTRIES: u32 = 512;
/// Sectors of a grain. The specification wants 4 KiB at least; everybody takes 64 KiB.
const GRAINS: std::ops::RangeInclusive<u64> = 8..=4096;

/// A header, as it is stored. Sizes and offsets are in sectors.
#[derive(Clone, Debug)]
pub(super) struct Header {
    flags: u32,
    pub capacity: u64,
    pub grain: u64,
    pub descriptor: u64,
    pub descriptor_size: u64,
    entries: u32,
    directory: u64,
    overhead: u64,
    compression: u16,
}

/// Where grains are found, and how. Sizes and offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub grain: u64,
    /// Entries of a grain table.
    pub entries: u64,
    pub directory: u64,
    /// A grain table entry of 1 is a grain of zeroes.
    pub zeroed_grains: bool,
    pub compressed: bool,
    /// A compressed grain starts with its place on the disk and its length.
    pub markers: bool,
}

impl Geometry {
    /// Bytes of the disk that a grain table is about.
    pub(super) fn span(&self) -> u64 {
        self.grain * self.entries
    }
}

fn le32(bytes: &[u8; 512], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn le64(bytes: &[u8; 512], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

impl Header {
    /// Reads a header or footer of the file.
    pub(super) fn parse(bytes: &[u8; 512], file: &Path) -> Result<Self, OpenError> {
        if !bytes.starts_with(MAGIC) {
            return Err(Corrupt::vmdk(file, "there is no vmdk signature", 0).into());
        }
        let version = le32(bytes, 4);
        if !(1..=3).contains(&version) {
            return Err(unsupported(file, format!("vmdk version {version}")));
        }
        let flags = le32(bytes, 8);
        if flags & NEWLINES != 0 && bytes[73..77] != *b"\n \r\n" {
            let what = "its line ends were changed: it was transferred as text";
            return Err(Corrupt::vmdk(file, what, 73).into());
        }
        Ok(Self {
            flags,
            capacity: le64(bytes, 12),
            grain: le64(bytes, 20),
            descriptor: le64(bytes, 28),
            descriptor_size: le64(bytes, 36),
            entries: le32(bytes, 44),
            directory: le64(bytes, 56),
            overhead: le64(bytes, 64),
            compression: u16::from_le_bytes([bytes[77], bytes[78]]),
        })
    }

    /// Whether the footer is to be used instead.
    pub(super) fn is_at_end(&self) -> bool {
        self.directory == AT_END
    }

    /// What the header of a file of `len` bytes means, if it can mean anything.
    pub(super) fn geometry(&self, file: &Path, len: u64) -> Result<Geometry, OpenError> {
        let wrong = |what: &str, at| Err(Corrupt::vmdk(file, what, at).into());
        let compressed = match self.compression {
            0 if self.flags & COMPRESSED != 0 => return wrong("the compression contradicts the flags", 77),
            0 => false,
            1 => true,
            n => return Err(unsupported(file, format!("compression algorithm {n}"))),
        };
        if !self.grain.is_power_of_two() || !GRAINS.contains(&self.grain) {
            return wrong("the grain size is not a power of two from 4 KiB to 2 MiB", 20);
        }
        if !(1..=MAX_ENTRIES).contains(&self.entries) {
            return wrong("a grain table has not 1 to 512 entries", 44);
        }
        if self.capacity == 0 || self.capacity > i64::MAX as u64 / SECTOR {
            return wrong("the capacity is impossible", 12);
        }
        if self.overhead > len.div_ceil(SECTOR) {
            return wrong("the file is cut off in its tables", 64);
        }
        let tables = self.capacity.div_ceil(self.grain * u64::from(self.entries));
        let end = self
            .directory
            .checked_mul(SECTOR)
            .and_then(|at| at.checked_add(tables * 4));
        if self.directory == 0 || end.is_none_or(|end| end > len) {
            return wrong("the grain directory lies outside the file", 56);
        }
        Ok(Geometry {
            grain: self.grain * SECTOR,
            entries: self.entries.into(),
            directory: self.directory * SECTOR,
            zeroed_grains: self.flags & ZEROED_GRAINS != 0,
            compressed,
            markers: self.flags & MARKERS != 0,
        })
    }
}

pub(super) fn unsupported(file: &Path, what: impl Into<String>) -> OpenError {
    OpenError::Unsupported {
        file: file.to_owned(),
        what: what.into(),
    }
}
