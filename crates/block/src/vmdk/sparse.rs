//! Sparse extents: files with grains, and tables that say where they are.

use super::SECTOR;
use super::header::{Geometry, Header};
use super::tables::Table;
use crate::error::{Corrupt, OpenError};
use crate::store::Store;
use flate2::{Decompress, FlushDecompress, Status};
use std::io;
use std::path::Path;

/// Where the footer is, from the end: behind it is the end-of-stream marker.
const FOOTER: u64 = 1024;
/// A compressed grain's marker: its first sector on the disk, and its bytes.
const MARKER: u64 = 12;

/// An open sparse extent.
pub(super) struct Sparse {
    pub store: Store,
    pub geometry: Geometry,
    /// Sectors of the disk in it.
    pub capacity: u64,
}

/// What a grain table entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grain {
    /// It is zeroes, or was never written to, which is the same without a parent.
    Zero,
    /// Where in the file it is, in bytes.
    At(u64),
}

/// Reads a header. What the file has less than that is no header either.
pub(super) fn first_sector(store: &Store, at: u64) -> Result<[u8; 512], OpenError> {
    let mut bytes = [0; 512];
    store
        .read(at, &mut bytes)
        .map_err(OpenError::io("read", store.path()))?;
    Ok(bytes)
}

impl Sparse {
    /// Takes over a file with that header.
    pub(super) fn open(store: Store, mut header: Header) -> Result<Self, OpenError> {
        let path = store.path();
        let len = store.len().map_err(OpenError::io("examine", path))?;
        if header.is_at_end() {
            let at = len.saturating_sub(FOOTER);
            let footer = Header::parse(&first_sector(&store, at)?, path).map_err(|e| footer(e, path, at))?;
            header = footer;
        }
        let geometry = header.geometry(path, len)?;
        Ok(Self {
            capacity: header.capacity,
            geometry,
            store,
        })
    }

    fn corrupt(&self, what: &str, offset: u64) -> io::Error {
        Corrupt::vmdk(self.store.path(), what, offset).into()
    }

    /// Reads a grain table, by its number in the grain directory.
    pub(super) fn table(&self, n: u64) -> io::Result<Table> {
        let at = self.geometry.directory + n * 4;
        let mut entry = [0; 4];
        if self.store.read(at, &mut entry)? < entry.len() {
            return Err(self.corrupt("the grain directory lies past the end of the file", at));
        }
        let at = u64::from(u32::from_le_bytes(entry)) * SECTOR;
        if at == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; self.geometry.entries as usize * 4];
        if self.store.read(at, &mut bytes)? < bytes.len() {
            return Err(self.corrupt("a grain table lies past the end of the file", at));
        }
        let (entries, _) = bytes.as_chunks();
        Ok(Some(entries.iter().map(|e| u32::from_le_bytes(*e)).collect()))
    }

    pub(super) fn decode(&self, entry: u32) -> Grain {
        match entry {
            0 => Grain::Zero,
            1 if self.geometry.zeroed_grains => Grain::Zero,
            sector => Grain::At(u64::from(sector) * SECTOR),
        }
    }

    /// Whether the grain `distance` behind one is the same kind of place, and follows it there.
    pub(super) fn follows(&self, first: Grain, distance: u64, entry: u32) -> bool {
        match (first, self.decode(entry)) {
            (Grain::Zero, Grain::Zero) => true,
            (Grain::At(a), Grain::At(b)) => {
                !self.geometry.compressed && b == a + distance * self.geometry.grain
            }
            _ => false,
        }
    }

    /// Unpacks the compressed grain at `at`, the disk's `n`th in this extent, of which `needed` bytes are there.
    pub(super) fn inflate(&self, n: u64, at: u64, needed: u64) -> io::Result<Vec<u8>> {
        let grain = self.geometry.grain;
        let (at, len) = match self.geometry.markers {
            true => (at + MARKER, self.marker(n, at)?),
            // It ends where the stream does.
            false => (at, 2 * grain),
        };
        let mut packed = vec![0; len as usize];
        let there = self.store.read(at, &mut packed)?;
        if self.geometry.markers && there < packed.len() {
            return Err(self.corrupt("a compressed grain lies past the end of the file", at));
        }
        let mut out = vec![0; grain as usize];
        let mut inflate = Decompress::new(true);
        match inflate.decompress(&packed[..there], &mut out, FlushDecompress::Finish) {
            Ok(Status::StreamEnd) if inflate.total_out() >= needed => Ok(out),
            _ => Err(self.corrupt("a compressed grain does not unpack", at)),
        }
    }

    /// How long a compressed grain is.
    fn marker(&self, n: u64, at: u64) -> io::Result<u64> {
        let mut marker = [0; MARKER as usize];
        if self.store.read(at, &mut marker)? < marker.len() {
            return Err(self.corrupt("a compressed grain lies past the end of the file", at));
        }
        let [lba @ .., a, b, c, d] = marker;
        let len = u64::from(u32::from_le_bytes([a, b, c, d]));
        // Grains that are no smaller for it are stored so all the same; nothing doubles.
        if len == 0 || len > 2 * self.geometry.grain {
            return Err(self.corrupt("a compressed grain has an impossible length", at));
        }
        if u64::from_le_bytes(lba) != n * (self.geometry.grain / SECTOR) {
            return Err(self.corrupt("a compressed grain belongs elsewhere", at));
        }
        Ok(len)
    }
}

/// The error of a file whose footer is none.
fn footer(error: OpenError, path: &Path, at: u64) -> OpenError {
    match error {
        OpenError::Corrupt(_) => Corrupt::vmdk(path, "it is cut off: there is no footer", at).into(),
        other => other,
    }
}
