//! Finding and reading guest data.

use super::entry::Entry;
use super::{Compression, Qcow2};
use crate::buffer::{Buffer, HostBuffer};
use crate::image::{Direct, Extent};
use flate2::{Decompress, FlushDecompress, Status};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

/// The compressed cluster that was read last: where it is and what it holds.
#[derive(Default)]
pub(super) struct Inflated(Option<(u64, Arc<Vec<u8>>)>);

impl Inflated {
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

/// Guest data in a row that is at the same kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the data file from that offset on; `owned` if it may be written there.
    Data { host: u64, owned: bool },
    /// It is zeroes.
    Zero,
    /// In the backing file, or zeroes.
    Backing,
    /// In a compressed cluster, from that byte of it on.
    Compressed { at: u64, len: u64, skip: usize },
}

impl Qcow2 {
    /// Where guest data at `offset` is, and how many of the `len` bytes follow there. `len` is not 0.
    pub(super) fn place(&self, offset: u64, len: u64) -> io::Result<(Place, u64)> {
        let cluster = self.geometry.cluster();
        let (l1, l2) = self.geometry.indices(offset);
        let inside = offset % cluster;
        let reach = self.geometry.l2_span() - offset % self.geometry.l2_span();
        let len = len.min(reach);
        let found = self.with_table(l1, |table| {
            let Some(table) = table else {
                return Ok((Place::Backing, len));
            };
            let entry = Entry::decode(table.entries[l2], &self.geometry)?;
            let place = match entry {
                Entry::Unallocated => Place::Backing,
                Entry::Zero { .. } => Place::Zero,
                Entry::Data { host, copied } => Place::Data {
                    host: host + inside,
                    owned: copied,
                },
                Entry::Compressed { at, len } => Place::Compressed {
                    at,
                    len,
                    skip: inside as usize,
                },
            };
            let mut run = cluster - inside;
            let mut next = l2 + 1;
            while run < len && follows(entry, next - l2, table.entries[next], &self.geometry) {
                run += cluster;
                next += 1;
            }
            Ok((place, run.min(len)))
        })?;
        found.map_err(|what: &str| self.corrupt(what, offset))
    }

    /// Reads guest data into `range` of the buffer. All of it lies on the disk.
    pub(crate) fn read(&self, mut offset: u64, buffer: &dyn Buffer, range: Range<usize>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let _pin = self.pins.pin();
            let (place, len) = self.place(offset, (range.end - at) as u64)?;
            let part = at..at + len as usize;
            at = part.end;
            match place {
                Place::Data { host, .. } => self.read_data(host, buffer, part)?,
                Place::Zero => buffer.zero(part),
                Place::Backing => self.read_backing(offset, buffer, part)?,
                Place::Compressed { at, len, skip } => {
                    let cluster = self.inflate(at, len)?;
                    buffer.store(part.start, &cluster[skip..skip + part.len()]);
                }
            }
            offset += len;
        }
        Ok(())
    }

    fn read_data(&self, host: u64, buffer: &dyn Buffer, range: Range<usize>) -> io::Result<()> {
        // A file cut off by a failed copy must not read as zeroes; one that ends inside a cluster may.
        let last = host + range.len() as u64 - 1;
        let last = last - last % self.geometry.cluster();
        if !self.geometry.data_file && last >= self.store.len()? {
            return Err(self.corrupt("data lies past the end of the file", last));
        }
        self.data().read_buffer(host, buffer, range)
    }

    fn read_backing(&self, offset: u64, buffer: &dyn Buffer, range: Range<usize>) -> io::Result<()> {
        let Some(backing) = &self.backing else {
            buffer.zero(range);
            return Ok(());
        };
        let there = backing.size().saturating_sub(offset).min(range.len() as u64) as usize;
        let middle = range.start + there;
        if there > 0 {
            backing.read_range(offset, buffer, range.start..middle)?;
        }
        if middle < range.end {
            buffer.zero(middle..range.end);
        }
        Ok(())
    }

    /// Guest data, as bytes.
    pub(super) fn read_bytes(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let len = out.len();
        self.read(offset, &HostBuffer::new(out), 0..len)
    }

    /// What a compressed cluster holds.
    fn inflate(&self, at: u64, len: u64) -> io::Result<Arc<Vec<u8>>> {
        if let Some((key, cluster)) = &self.inflated.lock().0
            && *key == at
        {
            return Ok(cluster.clone());
        }
        // The descriptor's width bounds this to twice the cluster's size.
        let mut packed = vec![0; len as usize];
        let there = self.store.read(at, &mut packed)?;
        let mut cluster = vec![0; self.geometry.cluster() as usize];
        let compression = self.header.lock().compression;
        match compression {
            Compression::Zlib => deflated(&packed[..there], &mut cluster),
            Compression::Zstd => zstandard(&packed[..there], &mut cluster),
        }
        .map_err(|what| self.corrupt(what, at))?;
        let cluster = Arc::new(cluster);
        self.inflated.lock().0 = Some((at, cluster.clone()));
        Ok(cluster)
    }

    /// The file and offset at which a transfer of that range can go on without the image.
    pub(crate) fn direct(&self, offset: u64, len: u64, for_write: bool) -> io::Result<Option<Direct>> {
        if for_write {
            self.begin()?;
        }
        let pin = self.pins.pin();
        let (place, run) = self.place(offset, len)?;
        let (mut run, start) = match place {
            Place::Data { host, owned } if owned || !for_write => (run, host),
            Place::Backing if !for_write && run == len => {
                let backing = self.backing.as_ref().filter(|b| b.size() >= offset + len);
                return Ok(backing.and_then(|b| b.direct(offset, len, false)));
            }
            _ => return Ok(None),
        };
        // It may go on in the next L2 table.
        while run < len {
            match self.place(offset + run, len - run)? {
                (Place::Data { host, owned }, more) if host == start + run && (owned || !for_write) => {
                    run += more
                }
                _ => return Ok(None),
            }
        }
        if for_write {
            self.not_metadata(start, len)?;
        } else if !self.geometry.data_file && start + len > self.store.len()? {
            return Ok(None);
        }
        Ok(Some(Direct {
            file: self.data().file().clone(),
            at: start,
            pin,
        }))
    }

    /// What is at `offset`, and how far that goes.
    pub(crate) fn extent(&self, offset: u64, len: u64) -> io::Result<Extent> {
        let (place, run) = self.place(offset, len)?;
        Ok(match place {
            Place::Data { .. } => Extent { data: true, len: run },
            Place::Zero => Extent {
                data: false,
                len: run,
            },
            Place::Compressed { .. } => Extent { data: true, len: run },
            Place::Backing => match &self.backing {
                Some(backing) if offset < backing.size() => {
                    backing.extent(offset, run.min(backing.size() - offset))?
                }
                _ => Extent {
                    data: false,
                    len: run,
                },
            },
        })
    }
}

/// Whether the cluster `distance` behind one is the same kind of place, and follows it there.
fn follows(first: Entry, distance: usize, raw: u64, geometry: &super::Geometry) -> bool {
    let next = Entry::decode(raw, geometry);
    match (first, next) {
        (Entry::Unallocated, Ok(Entry::Unallocated)) | (Entry::Zero { .. }, Ok(Entry::Zero { .. })) => true,
        (Entry::Data { host, copied }, Ok(Entry::Data { host: h, copied: c })) => {
            copied == c && h == host + distance as u64 * geometry.cluster()
        }
        _ => false,
    }
}

fn deflated(packed: &[u8], out: &mut [u8]) -> Result<(), &'static str> {
    let mut inflate = Decompress::new(false);
    match inflate.decompress(packed, out, FlushDecompress::Finish) {
        // More may follow in the last sector; a cluster is all that counts.
        Ok(Status::StreamEnd | Status::BufError | Status::Ok) if inflate.total_out() == out.len() as u64 => {
            Ok(())
        }
        _ => Err("a compressed cluster does not unpack"),
    }
}

fn zstandard(packed: &[u8], out: &mut [u8]) -> Result<(), &'static str> {
    let mut unpack = || -> io::Result<()> {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
        // A cluster is 2 MiB at most: no writer needs a larger window.
        decoder.window_log_max(23)?;
        decoder.read_exact(out)
    };
    unpack().map_err(|_| "a compressed cluster does not unpack")
}
