//! What is in memory goes to the disk, in the order that the parent module gives.

use super::header::{self, RAW_DATA_FILE};
use super::refcount::{Retired, widen};
use super::{Qcow2, REFCOUNT_CACHE, bytes};
use crate::sync::{read, write};
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Pieces of retired clusters that are remembered until a flush.
const RETIRED: usize = 1 << 16;

/// Entries as they were when a flush began.
struct Piece {
    /// The table's offset.
    table: u64,
    range: Range<usize>,
    content: Vec<u8>,
}

impl Piece {
    /// Changed entries, in whole sectors.
    fn of(table: u64, entries: &[u64], dirty: &Range<usize>) -> Self {
        let range = dirty.start / 64 * 64..dirty.end.next_multiple_of(64).min(entries.len());
        Self {
            table,
            content: bytes::bytes(&entries[range.clone()]),
            range,
        }
    }
}

/// What a flush has to write.
struct Work {
    l1: Option<Piece>,
    l2: Vec<Piece>,
    /// What left the tables before it began.
    retired: Vec<Retired>,
}

impl Qcow2 {
    /// Says in the header that the image is being written to, unless it does.
    pub(super) fn begin(&self) -> io::Result<()> {
        if let Some(corrupt) = self.broken.lock().clone() {
            return Err(corrupt.into());
        }
        if self.started.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut header = self.header.lock();
        if self.started.load(Ordering::Acquire) {
            return Ok(());
        }
        if header.version >= 3 {
            let mut new = header.clone();
            new.incompatible |= header::DIRTY;
            // Others' notes about the content (bitmaps) do not hold any more.
            new.autoclear &= if header.data_file() { RAW_DATA_FILE } else { 0 };
            self.store.write(header::at::FEATURES, &new.feature_bytes())?;
            self.store.sync()?;
            *header = new;
        }
        self.started.store(true, Ordering::Release);
        Ok(())
    }

    /// Returns when everything written before is on the disk.
    pub(crate) fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        let tables = read(&self.tables).is_dirty();
        let clean = !tables && !self.refcounts.lock().is_dirty();
        match clean {
            true => self.sync(),
            false => self.flush_tables(),
        }
    }

    fn sync(&self) -> io::Result<()> {
        if let Some(data) = &self.data {
            data.sync()?;
        }
        self.store.sync()
    }

    /// Writes tables and counts.
    pub(super) fn flush_tables(&self) -> io::Result<()> {
        let _one = self.flushing.lock();
        let work = self.gather();
        let done = self.write_back(&work);
        let mut tables = write(&self.tables);
        for piece in &work.l2 {
            if let Some(table) = tables.cache.get_mut(&piece.table) {
                table.busy = false;
                if done.is_err() {
                    widen(&mut table.dirty, piece.range.clone());
                }
            }
        }
        let mut tail = self.tail.lock();
        let mut refcounts = self.refcounts.lock();
        if let Err(e) = done {
            if let Some(l1) = &work.l1 {
                widen(&mut tables.l1_dirty, l1.range.clone());
            }
            let later = std::mem::replace(&mut refcounts.unlinked, work.retired);
            refcounts.unlinked.extend(later);
            return Err(e);
        }
        drop(tables);
        refcounts.durable.extend(work.retired);
        if !refcounts.durable.is_empty() {
            // It may be among them.
            tail.clear();
        }
        self.reap(&mut refcounts)
    }

    /// Gives up clusters that are in no table on the disk and used by no transfer.
    pub(super) fn reap(&self, refcounts: &mut super::Refcounts) -> io::Result<()> {
        if refcounts.durable.is_empty() {
            return Ok(());
        }
        // Their room will hold something else.
        self.inflated.lock().forget();
        let done = refcounts.reap(&self.store, self.pins.oldest());
        done.map_err(|e| self.notice(e))
    }

    fn gather(&self) -> Work {
        let mut tables = write(&self.tables);
        let mut l2 = vec![];
        for (&offset, table) in &mut tables.cache {
            if let Some(dirty) = table.dirty.take() {
                table.busy = true;
                l2.push(Piece::of(offset, &table.entries, &dirty));
            }
        }
        // Neighbours in the file one after the other.
        l2.sort_unstable_by_key(|p| p.table);
        let dirty = tables.l1_dirty.take();
        let l1 = dirty.map(|dirty| Piece::of(tables.l1_offset, &tables.l1, &dirty));
        let retired = std::mem::take(&mut self.refcounts.lock().unlinked);
        Work { l1, l2, retired }
    }

    fn write_back(&self, work: &Work) -> io::Result<()> {
        loop {
            let mut refcounts = self.refcounts.lock();
            if !refcounts.has_fresh() {
                refcounts.write_dirty(&self.store)?;
                break;
            }
            let written = refcounts.write_fresh(&self.store)?;
            drop(refcounts);
            self.store.sync()?;
            self.refcounts.lock().settle(&written);
        }
        self.sync()?;
        if work.l2.is_empty() && work.l1.is_none() {
            return Ok(());
        }
        for piece in work.l2.iter().chain(&work.l1) {
            self.store
                .write(piece.table + piece.range.start as u64 * 8, &piece.content)?;
        }
        self.store.sync()
    }

    /// Keeps what is in memory within bounds. To be called without locks.
    pub(super) fn trim(&self) -> io::Result<()> {
        let blocks = (REFCOUNT_CACHE >> self.geometry.cluster_bits).max(4);
        let over = |image: &Self| {
            let tables = read(&image.tables).cache.len() > image.table_limit() * 5 / 4;
            let mut refcounts = image.refcounts.lock();
            if refcounts.cached() > blocks {
                refcounts.evict(blocks / 2);
            }
            tables || refcounts.cached() > blocks || refcounts.unlinked.len() > RETIRED
        };
        if !over(self) {
            return Ok(());
        }
        write(&self.tables).evict(self.table_limit());
        if over(self) {
            self.flush_tables()?;
            write(&self.tables).evict(self.table_limit());
        }
        Ok(())
    }
}
