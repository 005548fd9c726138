//! Where files lie in RAM's mapping.

use super::{MOST, MemoryError, PAGE_SIZE, RamRange, RangeKind};
use crate::map::{Mapping, MemoryFile, Piece};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A file in the mapping.
pub(super) struct Mapped {
    pub file: Arc<File>,
    pub range: RamRange,
    /// Somebody stored to it, and it is read-only.
    pub ignored: AtomicBool,
}

/// Puts files behind `size` bytes of RAM in the mapping, those that can be written first, and adds their ranges.
pub(super) fn place(
    files: &[(u64, MemoryFile)],
    size: u64,
    ranges: &mut Vec<RamRange>,
) -> Result<Vec<Mapped>, MemoryError> {
    let mut ordered: Vec<_> = files.iter().collect();
    ordered.sort_by_key(|(_, f)| f.read_only);
    let (mut offset, mut mapped) = (size + PAGE_SIZE as u64, vec![]);
    for (address, MemoryFile { file, len, read_only }) in ordered {
        let (address, len) = (*address, *len);
        let error = MemoryError::Place { address, len };
        let end = address.checked_add(len);
        let overlaps = |r: &RamRange| end.is_none_or(|end| address < r.address + r.len && r.address < end);
        let whole = len > 0 && (address | len).is_multiple_of(PAGE_SIZE as u64);
        if !whole || len > MOST || offset > MOST || ranges.iter().any(overlaps) {
            return Err(error);
        }
        // Whatever it was before: what is beyond its end cannot be touched.
        let there = file
            .metadata()
            .map_err(|cause| MemoryError::File { len, cause })?;
        if there.len() < len {
            let cause = std::io::Error::other(format!("it has only {} bytes now", there.len()));
            return Err(MemoryError::File { len, cause });
        }
        let kind = match read_only {
            true => RangeKind::ReadOnlyFile,
            false => RangeKind::File,
        };
        let range = RamRange {
            kind,
            address,
            len,
            offset,
        };
        ranges.push(range);
        mapped.push(Mapped {
            file: file.clone(),
            range,
            ignored: AtomicBool::new(false),
        });
        offset += len + PAGE_SIZE as u64;
    }
    ranges.sort_by_key(|r| r.address);
    Ok(mapped)
}

/// Maps `ram` bytes of a memfd, and files where they were placed, up to `end` and a page more.
pub(super) fn map(
    fd: &OwnedFd,
    ram: usize,
    page: usize,
    files: &[Mapped],
    end: usize,
) -> std::io::Result<Mapping> {
    let first = Piece {
        fd: fd.as_fd(),
        offset: 0,
        len: ram,
        read_only: false,
        page,
    };
    fn piece(f: &Mapped) -> Piece<'_> {
        Piece {
            fd: f.file.as_fd(),
            offset: f.range.offset as usize,
            len: f.range.len as usize,
            read_only: f.range.kind == RangeKind::ReadOnlyFile,
            page: PAGE_SIZE,
        }
    }
    let others: Vec<_> = files.iter().map(piece).collect();
    Mapping::new(end + PAGE_SIZE, first, &others)
}
