//! Another size for the disk.

use super::entry::Entry;
use super::header::{MAX_L1, at};
use super::layout::span;
use super::{Qcow2, bytes};
use crate::error::OpenError;
use crate::sync::{read, write};
use std::io;
use std::sync::atomic::Ordering;

impl Qcow2 {
    /// Changes the size to `size`, whole sectors. What lies past a smaller size is gone; what a larger one adds
    /// reads as zeroes.
    pub(crate) fn resize(&self, size: u64) -> Result<(), OpenError> {
        let path = self.store.path();
        let old = self.size();
        let header = self.header();
        if header.snapshots > 0 && header.version < 3 {
            return Err(OpenError::Argument(format!(
                "{0} is of qcow2 version 2, whose snapshots do not remember sizes: delete them first: qemu-img snapshot -l {0}",
                path.display()
            )));
        }
        if self.data.is_some() {
            return Err(OpenError::Unsupported {
                file: path.to_owned(),
                what: "resizing an image with an external data file".into(),
            });
        }
        if self.geometry.l1_entries(size) > MAX_L1 / 8 {
            return Err(OpenError::Argument(format!(
                "{} cannot be that large with clusters of {} bytes; make one with larger ones: donjon disk convert --cluster-size 2M",
                path.display(),
                self.geometry.cluster()
            )));
        }
        let done = match size < old {
            true => self.shrink(size),
            false => self.grow(old, size),
        };
        done.map_err(OpenError::io("resize", path))
    }

    fn shrink(&self, size: u64) -> io::Result<()> {
        // The rest of the last cluster must not come back when the disk grows again.
        let whole = size.next_multiple_of(self.geometry.cluster());
        let end = self.size();
        if size < whole.min(end) {
            self.write_zeroes(size, whole.min(end) - size, true)?;
        }
        if whole < end {
            self.discard(whole, end - whole)?;
        }
        self.flush()?;
        let _all = self.ranges.lock(0..u64::MAX);
        self.set_size(size)
    }

    fn grow(&self, old: u64, size: u64) -> io::Result<()> {
        self.begin()?;
        let needed = self.geometry.l1_entries(size) as usize;
        if needed > read(&self.tables).l1.len() {
            self.grow_l1(needed)?;
        }
        {
            let _all = self.ranges.lock(0..u64::MAX);
            self.set_size(size)?;
        }
        // A backing file that is larger shows no more of itself; nor does what a cluster holds past the old end.
        let backing = self.backing.as_ref().map_or(0, |b| b.size());
        let whole = old.next_multiple_of(self.geometry.cluster());
        let end = size.min(backing.max(whole));
        if end > old {
            self.write_zeroes(old, end - old, true)?;
        }
        self.flush()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut header = self.header.lock();
        self.store.write(at::SIZE, &size.to_be_bytes())?;
        self.store.sync()?;
        header.size = size;
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    /// Moves the L1 table to a place where it can be larger.
    fn grow_l1(&self, entries: usize) -> io::Result<()> {
        let (cluster, bits) = (self.geometry.cluster(), self.geometry.cluster_bits);
        let _all = self.ranges.lock(0..u64::MAX);
        // The old table's entries go along as they are on the disk.
        self.flush_tables()?;
        let mut tables = write(&self.tables);
        let mut refcounts = self.refcounts.lock();
        let wanted = (entries as u64 * 8).div_ceil(cluster);
        let run = {
            let mut layout = write(&self.layout);
            refcounts.allocate_row(&self.store, &mut layout, wanted)?
        };
        let offset = run.start << bits;
        let mut l1 = tables.l1.clone();
        l1.resize(entries, 0);
        let mut content = bytes::bytes(&l1);
        content.resize((wanted * cluster) as usize, 0);
        let write_all = || -> io::Result<()> {
            self.store.write(offset, &content)?;
            self.store.sync()
        };
        if let Err(e) = write_all().and_then(|()| refcounts.write_all(&self.store)) {
            refcounts.release(&self.store, run);
            return Err(e);
        }
        let mut header = self.header.lock();
        let mut fields = header.size.to_be_bytes().to_vec();
        fields.extend(0u32.to_be_bytes());
        fields.extend((entries as u32).to_be_bytes());
        fields.extend(offset.to_be_bytes());
        self.store.write(at::SIZE, &fields)?;
        self.store.sync()?;
        let old = span(tables.l1_offset, tables.l1.len() as u64 * 8, &self.geometry);
        (header.l1_offset, header.l1_entries) = (offset, entries as u32);
        (tables.l1, tables.l1_offset) = (l1, offset);
        write(&self.layout).l1 = span(offset, entries as u64 * 8, &self.geometry);
        refcounts.release(&self.store, old.start >> bits..old.end >> bits);
        Ok(())
    }

    /// Whether there is data past a size.
    pub(crate) fn has_data_beyond(&self, size: u64) -> io::Result<bool> {
        let mut at = size;
        while at < self.size() {
            let extent = self.extent(at, self.size() - at)?;
            if extent.data {
                return Ok(true);
            }
            at += extent.len;
        }
        Ok(false)
    }

    /// Maps every cluster that is not mapped yet, without writing to it; with `reserve`, the file system gives its
    /// room, too.
    pub(crate) fn preallocate(&self, reserve: bool) -> io::Result<()> {
        self.begin()?;
        let (bits, cluster) = (self.geometry.cluster_bits, self.geometry.cluster());
        let last = self.size().div_ceil(cluster);
        let mut first = 0;
        let mut end = 0;
        while first < last {
            let count = self.stretch(first, last);
            let _mine = self.ranges.lock(first..first + count);
            let entries = self.entries(first, count)?;
            let unmapped = entries.iter().take_while(|e| **e == Entry::Unallocated).count();
            match unmapped {
                0 => first += 1,
                n => {
                    let Some(room) = self.room(first, &entries[..n])? else {
                        break;
                    };
                    let linked = self.link(first, room.host, &entries[..room.count as usize]);
                    linked.inspect_err(|_| self.give_back(&room))?;
                    if reserve {
                        self.store.reserve(room.host, room.count * cluster)?;
                    }
                    end = end.max(room.host + (room.count << bits));
                    first += room.count;
                }
            }
            drop(_mine);
            self.trim()?;
        }
        if self.store.len()? < end {
            self.store.set_len(end)?;
        }
        self.flush()
    }
}
