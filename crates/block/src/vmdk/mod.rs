//! VMware's format, for reading ("Virtual Disk Format 5.0"): hosted sparse and stream-optimized extents, flat ones,
//! and disks of several. Snapshots' deltas, ESX's COWD and SESPARSE extents are refused.
//!
//! A disk is a list of extents, which a descriptor names. A sparse one has a directory of tables of grains; both are
//! read when they are needed, so that an image takes as much memory as is used of it, up to a bound.

mod descriptor;
mod header;
mod open;
mod sparse;
mod tables;
#[cfg(test)]
mod tests;

use crate::buffer::Buffer;
use crate::error::Corrupt;
use crate::image::{self, Direct};
use crate::pin::Pin;
use crate::store::Store;
use crate::sync::Mutex;
use sparse::{Grain, Sparse};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tables::{Table, Tables};

const SECTOR: u64 = 512;

/// An open vmdk image.
pub(crate) struct Vmdk {
    create_type: String,
    extents: Vec<Extent>,
    tables: Mutex<Tables>,
    inflated: Mutex<Option<Inflated>>,
}

/// The compressed grain that was read last.
struct Inflated {
    extent: usize,
    n: u64,
    grain: Arc<Vec<u8>>,
}

/// A part of the disk.
pub(crate) struct Extent {
    /// Bytes of the disk.
    range: Range<u64>,
    kind: Kind,
}

enum Kind {
    Sparse(Sparse),
    /// A file from that offset on.
    Flat(Store, u64),
    Zero,
}

/// Where data is.
enum Place<'a> {
    File(&'a Store, u64),
    Zero,
    /// In the `n`th grain of an extent, which is compressed, from the byte `skip` on.
    Compressed {
        extent: usize,
        sparse: &'a Sparse,
        n: u64,
        at: u64,
        skip: usize,
    },
}

impl Extent {
    /// Its type, as in a descriptor.
    pub(crate) fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Sparse(_) => "SPARSE",
            Kind::Flat(..) => "FLAT",
            Kind::Zero => "ZERO",
        }
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn store(&self) -> Option<&Store> {
        match &self.kind {
            Kind::Sparse(sparse) => Some(&sparse.store),
            Kind::Flat(store, _) => Some(store),
            Kind::Zero => None,
        }
    }

    /// Where it is.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.store().map(Store::path)
    }

    /// Bytes of a grain, and whether they are compressed.
    pub(crate) fn grain(&self) -> Option<(u64, bool)> {
        match &self.kind {
            Kind::Sparse(sparse) => Some((sparse.geometry.grain, sparse.geometry.compressed)),
            _ => None,
        }
    }
}

impl Vmdk {
    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.extents.last().map_or(0, |e| e.range.end)
    }

    /// What kind of image its maker says it is.
    pub(crate) fn create_type(&self) -> &str {
        &self.create_type
    }

    pub(crate) fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Where data at `offset` is, and how many of the `len` bytes follow there. `len` is not 0.
    fn place(&self, offset: u64, len: u64) -> io::Result<(Place<'_>, u64)> {
        let n = self.extents.partition_point(|e| e.range.end <= offset);
        let Some(extent) = self.extents.get(n) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let inside = offset - extent.range.start;
        let len = len.min(extent.range.end - offset);
        match &extent.kind {
            Kind::Zero => Ok((Place::Zero, len)),
            Kind::Flat(store, at) => Ok((Place::File(store, at + inside), len)),
            Kind::Sparse(sparse) => self.grain(n, sparse, inside, len),
        }
    }

    /// The same inside a sparse extent.
    fn grain<'a>(
        &self,
        extent: usize,
        sparse: &'a Sparse,
        inside: u64,
        len: u64,
    ) -> io::Result<(Place<'a>, u64)> {
        let (span, size) = (sparse.geometry.span(), sparse.geometry.grain);
        let len = len.min(span - inside % span);
        let Some(table) = self.table(extent, sparse, inside / span)? else {
            return Ok((Place::Zero, len));
        };
        let (index, skip) = ((inside % span / size) as usize, inside % size);
        let first = sparse.decode(table[index]);
        let mut run = size - skip;
        for (distance, entry) in (1..).zip(&table[index + 1..]) {
            if run >= len || !sparse.follows(first, distance, *entry) {
                break;
            }
            run += size;
        }
        let place = match first {
            Grain::Zero => Place::Zero,
            Grain::At(at) if sparse.geometry.compressed => Place::Compressed {
                extent,
                sparse,
                n: inside / size,
                at,
                skip: skip as usize,
            },
            Grain::At(at) => Place::File(&sparse.store, at + skip),
        };
        Ok((place, run.min(len)))
    }

    fn table(&self, extent: usize, sparse: &Sparse, n: u64) -> io::Result<Table> {
        if let Some(table) = self.tables.lock().get((extent, n)) {
            return Ok(table);
        }
        let table = sparse.table(n)?;
        self.tables.lock().insert((extent, n), table.clone());
        Ok(table)
    }

    /// Reads into `range` of the buffer. All of it lies on the disk.
    pub(crate) fn read(&self, mut offset: u64, buffer: &dyn Buffer, range: Range<usize>) -> io::Result<()> {
        let mut start = range.start;
        while start < range.end {
            let (place, len) = self.place(offset, (range.end - start) as u64)?;
            let part = start..start + len as usize;
            start = part.end;
            match place {
                Place::Zero => buffer.zero(part),
                Place::File(store, at) => {
                    // A file cut off by a failed copy must not read as zeroes.
                    if !has(store, at, len)? {
                        let what = "data lies past the end of the file";
                        return Err(Corrupt::vmdk(store.path(), what, at).into());
                    }
                    store.read_buffer(at, buffer, part)?;
                }
                Place::Compressed {
                    extent,
                    sparse,
                    n,
                    at,
                    skip,
                } => {
                    let grain = self.inflate(extent, sparse, n, at)?;
                    buffer.store(part.start, &grain[skip..skip + part.len()]);
                }
            }
            offset += len;
        }
        Ok(())
    }

    fn inflate(&self, extent: usize, sparse: &Sparse, n: u64, at: u64) -> io::Result<Arc<Vec<u8>>> {
        if let Some(last) = &*self.inflated.lock()
            && (last.extent, last.n) == (extent, n)
        {
            return Ok(last.grain.clone());
        }
        let left = self.extents[extent].size() - n * sparse.geometry.grain;
        let grain = Arc::new(sparse.inflate(n, at, left.min(sparse.geometry.grain))?);
        *self.inflated.lock() = Some(Inflated {
            extent,
            n,
            grain: grain.clone(),
        });
        Ok(grain)
    }

    /// The file and offset at which that range can be read without the image.
    pub(crate) fn direct(&self, offset: u64, len: u64, for_write: bool) -> io::Result<Option<Direct>> {
        let (Place::File(store, at), mut run) = self.place(offset, len)? else {
            return Ok(None);
        };
        // It may go on in the next table or extent.
        while run < len {
            match self.place(offset + run, len - run)? {
                (Place::File(next, to), more) if std::ptr::eq(next, store) && to == at + run => run += more,
                _ => return Ok(None),
            }
        }
        if for_write || !has(store, at, len)? {
            return Ok(None);
        }
        Ok(Some(Direct {
            file: store.file().clone(),
            at,
            pin: Pin::none(),
        }))
    }

    /// What is at `offset`, and how far that goes.
    pub(crate) fn extent(&self, offset: u64, len: u64) -> io::Result<image::Extent> {
        let (place, len) = self.place(offset, len)?;
        Ok(match place {
            Place::Zero => image::Extent { data: false, len },
            Place::File(store, at) if has(store, at, len)? => store.extent(at, len),
            // Reading it tells what is wrong.
            Place::File(..) | Place::Compressed { .. } => image::Extent { data: true, len },
        })
    }
}

/// Whether a file is long enough.
fn has(store: &Store, at: u64, len: u64) -> io::Result<bool> {
    let there = store.len()?;
    Ok(at.checked_add(len).is_some_and(|end| end <= there))
}
