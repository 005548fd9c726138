//! Writing guest data, in place or to new clusters.

use super::Qcow2;
use super::entry::Entry;
use super::read::Place;
use crate::buffer::Buffer;
use crate::sync::{read, write};
use std::io;
use std::ops::Range;

/// Bytes that are allocated at once at most.
const RUN: u64 = 8 << 20;

/// Host clusters in a row for guest clusters in a row.
#[derive(Debug)]
pub(super) struct Room {
    pub host: u64,
    pub count: u64,
    /// They read as zeroes.
    fresh: bool,
    /// They were allocated now.
    new: bool,
}

impl Qcow2 {
    /// Writes `range` of the buffer. All of it lies on the disk.
    pub(crate) fn write(&self, mut offset: u64, buffer: &dyn Buffer, range: Range<usize>) -> io::Result<()> {
        self.begin()?;
        let mut at = range.start;
        while at < range.end {
            let left = (range.end - at) as u64;
            let pin = self.pins.pin();
            let done = match self.place(offset, left)? {
                (Place::Data { host, owned: true }, len) => {
                    self.not_metadata(host, len)?;
                    self.data().write_buffer(host, buffer, at..at + len as usize)?;
                    len
                }
                _ => {
                    drop(pin);
                    self.write_new(offset, buffer, at..range.end)?
                }
            };
            offset += done;
            at += done as usize;
        }
        self.trim()
    }

    /// Fails if a table's entry leads guest data into metadata, or out of the file.
    pub(super) fn not_metadata(&self, host: u64, len: u64) -> io::Result<()> {
        if self.geometry.data_file {
            return Ok(());
        }
        let cluster = self.geometry.cluster();
        let layout = read(&self.layout);
        let first = host - host % cluster;
        let found = (first..host + len)
            .step_by(cluster as usize)
            .find_map(|at| layout.metadata(at).map(|what| (what, at)));
        drop(layout);
        if let Some((what, at)) = found {
            return Err(self.corrupt(format!("guest data lies where {what} is"), at));
        }
        // Whatever was mapped has been written to, so that the file reaches there.
        let last = (host + len - 1) / cluster * cluster;
        if !self.store.is_block_device() && last >= self.store.len()? {
            return Err(self.corrupt("data lies past the end of the file", last));
        }
        Ok(())
    }

    /// Entries of guest clusters in a row, in one L2 table.
    pub(super) fn entries(&self, first: u64, count: u64) -> io::Result<Vec<Entry>> {
        let (l1, l2) = self.geometry.indices(first << self.geometry.cluster_bits);
        let found = self.with_table(l1, |table| match table {
            None => Ok(vec![Entry::Unallocated; count as usize]),
            Some(table) => table.entries[l2..l2 + count as usize]
                .iter()
                .map(|raw| Entry::decode(*raw, &self.geometry))
                .collect(),
        })?;
        found.map_err(|what: &str| self.corrupt(what, first << self.geometry.cluster_bits))
    }

    /// Guest clusters from `first` up to `end` that are in one L2 table, `RUN` bytes at most.
    pub(super) fn stretch(&self, first: u64, end: u64) -> u64 {
        let table = self.geometry.l2_entries() - first % self.geometry.l2_entries();
        let run = (RUN >> self.geometry.cluster_bits).max(1);
        (end - first).min(table).min(run)
    }

    /// Writes the beginning of `range` to clusters that are not mapped yet, or not ours alone. Returns how much;
    /// nothing if somebody else has just mapped them.
    fn write_new(&self, offset: u64, buffer: &dyn Buffer, range: Range<usize>) -> io::Result<u64> {
        let bits = self.geometry.cluster_bits;
        let first = offset >> bits;
        let last = (offset + range.len() as u64).div_ceil(self.geometry.cluster());
        let count = self.stretch(first, last);
        let _mine = self.ranges.lock(first..first + count);
        let entries = self.entries(first, count)?;
        let Some(room) = self.room(first, &entries)? else {
            return Ok(0);
        };
        let count = room.count;
        let end = (offset + range.len() as u64).min((first + count) << bits);
        let part = range.start..range.start + (end - offset) as usize;
        let cluster = self.geometry.cluster();
        let written = self
            .keep(offset - offset % cluster..offset, first, &entries, &room)
            .and_then(|()| {
                self.data()
                    .write_buffer(room.host + (offset - (first << bits)), buffer, part)
            })
            .and_then(|()| self.keep(end..end.next_multiple_of(cluster), first, &entries, &room))
            .and_then(|()| self.link(first, room.host, &entries[..count as usize]));
        if let Err(e) = written {
            self.give_back(&room);
            return Err(self.notice(e));
        }
        Ok(end - offset)
    }

    /// Host clusters for the first of these guest clusters; `None` if the first needs none.
    pub(super) fn room(&self, first: u64, entries: &[Entry]) -> io::Result<Option<Room>> {
        let cluster = self.geometry.cluster();
        let kept = |entry: &Entry| match entry {
            Entry::Zero {
                host: Some(host),
                copied: true,
            } => Some(*host),
            _ => None,
        };
        let needy =
            |entry: &Entry| !matches!(entry, Entry::Data { copied: true, .. }) && kept(entry).is_none();
        if let Some(host) = kept(&entries[0]) {
            let next = |(i, e): &(usize, &Entry)| kept(e) == Some(host + *i as u64 * cluster);
            let count = entries.iter().enumerate().take_while(next).count() as u64;
            self.not_metadata(host, count * cluster)?;
            return Ok(Some(Room {
                host,
                count,
                fresh: false,
                new: false,
            }));
        }
        let count = entries.iter().take_while(|e| needy(e)).count() as u64;
        if count == 0 {
            return Ok(None);
        }
        if self.geometry.data_file {
            let host = first << self.geometry.cluster_bits;
            return Ok(Some(Room {
                host,
                count,
                fresh: false,
                new: false,
            }));
        }
        let run = {
            let mut refcounts = self.refcounts.lock();
            let mut layout = write(&self.layout);
            refcounts.allocate(&self.store, &mut layout, count)
        };
        let run = run.map_err(|e| self.notice(e))?;
        Ok(Some(Room {
            host: run.clusters.start << self.geometry.cluster_bits,
            count: run.clusters.end - run.clusters.start,
            fresh: run.fresh,
            new: true,
        }))
    }

    /// Takes back room that was not linked.
    pub(super) fn give_back(&self, room: &Room) {
        if room.new {
            let start = room.host >> self.geometry.cluster_bits;
            self.refcounts
                .lock()
                .release(&self.store, start..start + room.count);
        }
    }

    /// Copies to a new cluster the side of the old one that is not written.
    fn keep(&self, side: Range<u64>, first: u64, entries: &[Entry], room: &Room) -> io::Result<()> {
        let cluster = self.geometry.cluster();
        if side.is_empty() {
            return Ok(());
        }
        let index = (side.start / cluster - first) as usize;
        let zero = match entries[index] {
            Entry::Zero { .. } => true,
            Entry::Unallocated => self.backing.as_ref().is_none_or(|b| b.size() <= side.start),
            _ => false,
        };
        if zero && room.fresh {
            return Ok(());
        }
        let mut old = vec![0; (side.end - side.start) as usize];
        if !zero {
            self.read_bytes(side.start, &mut old)?;
        }
        let host = room.host + (side.start - first * cluster);
        self.data().write(host, &old)
    }

    /// Maps guest clusters to host clusters in a row; retires what they were mapped to.
    pub(super) fn link(&self, first: u64, host: u64, old: &[Entry]) -> io::Result<()> {
        let (l1, l2) = self.geometry.indices(first << self.geometry.cluster_bits);
        let cluster = self.geometry.cluster();
        self.update(l1, l2..l2 + old.len(), |raw| {
            for (i, raw) in raw.iter_mut().enumerate() {
                let host = host + i as u64 * cluster;
                *raw = Entry::Data { host, copied: true }.encode(&self.geometry);
            }
        })?;
        self.retire(old, |entry| {
            matches!(
                entry,
                Entry::Zero {
                    host: Some(_),
                    copied: true
                }
            )
        });
        Ok(())
    }

    /// Gives up the clusters that entries had, unless they are kept.
    pub(super) fn retire(&self, old: &[Entry], kept: impl Fn(&Entry) -> bool) {
        if self.geometry.data_file {
            return;
        }
        let bits = self.geometry.cluster_bits;
        let mut stamp = None;
        for entry in old.iter().filter(|e| !kept(e)) {
            let clusters = match *entry {
                Entry::Data { host, .. } | Entry::Zero { host: Some(host), .. } => {
                    host >> bits..(host >> bits) + 1
                }
                Entry::Compressed { at, len } => at >> bits..((at + len - 1) >> bits) + 1,
                _ => continue,
            };
            let stamp = *stamp.get_or_insert_with(|| self.pins.stamp());
            self.refcounts.lock().retire(stamp, clusters);
        }
    }
}
