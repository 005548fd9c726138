//! The mapping tables in memory: all of the L1 table, some L2 tables.

use super::Qcow2;
use super::bytes;
use super::entry::{COPIED, Entry, Geometry};
use super::refcount::widen;
use crate::sync::{read, write};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// An L2 table in memory.
pub(crate) struct Table {
    pub entries: Vec<u64>,
    /// Entries that differ from the file.
    pub dirty: Option<Range<usize>>,
    /// A flush is writing it: until that is done the file is older than memory.
    pub busy: bool,
    used: AtomicU64,
}

impl Table {
    fn new(entries: Vec<u64>) -> Self {
        Self {
            entries,
            dirty: None,
            busy: false,
            used: AtomicU64::new(0),
        }
    }
}

/// The mapping.
pub(crate) struct Tables {
    pub l1: Vec<u64>,
    pub l1_offset: u64,
    /// L1 entries that differ from the file.
    pub l1_dirty: Option<Range<usize>>,
    /// L2 tables by offset.
    pub cache: HashMap<u64, Table>,
    clock: AtomicU64,
}

impl Tables {
    pub(crate) fn new(l1: Vec<u64>, l1_offset: u64) -> Self {
        Self {
            l1,
            l1_offset,
            l1_dirty: None,
            cache: HashMap::new(),
            clock: AtomicU64::new(0),
        }
    }

    /// Where the L2 table of an L1 entry is; 0 for nowhere.
    pub(crate) fn l2_offset(&self, l1: usize, geometry: &Geometry) -> Result<u64, &'static str> {
        Entry::l2_table(self.l1.get(l1).copied().unwrap_or(0), geometry)
    }

    fn cached(&self, offset: u64) -> Option<&Table> {
        let table = self.cache.get(&offset)?;
        table
            .used
            .store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(table)
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.l1_dirty.is_some() || self.cache.values().any(|t| t.dirty.is_some() || t.busy)
    }

    /// Forgets the tables used longest ago that are as in the file, until `limit` are left.
    pub(crate) fn evict(&mut self, limit: usize) {
        if self.cache.len() <= limit {
            return;
        }
        let mut clean: Vec<(u64, u64)> = self
            .cache
            .iter()
            .filter(|(_, t)| t.dirty.is_none() && !t.busy)
            .map(|(offset, t)| (t.used.load(Ordering::Relaxed), *offset))
            .collect();
        clean.sort_unstable();
        // A quarter at once, so that not every miss looks for the oldest.
        let surplus = self.cache.len() - limit * 3 / 4;
        for (_, offset) in clean.into_iter().take(surplus) {
            self.cache.remove(&offset);
        }
    }
}

impl Qcow2 {
    /// L2 tables that are kept in memory.
    pub(super) fn table_limit(&self) -> usize {
        (super::L2_CACHE >> self.geometry.cluster_bits).max(4)
    }

    /// Looks at an L2 table; `None` if there is none.
    pub(super) fn with_table<R>(&self, l1: usize, look: impl FnOnce(Option<&Table>) -> R) -> io::Result<R> {
        loop {
            let tables = read(&self.tables);
            match tables.l2_offset(l1, &self.geometry) {
                Ok(0) => return Ok(look(None)),
                Ok(offset) => {
                    if let Some(table) = tables.cached(offset) {
                        return Ok(look(Some(table)));
                    }
                }
                Err(what) => {
                    drop(tables);
                    return Err(self.corrupt(what, l1 as u64 * 8));
                }
            }
            drop(tables);
            self.load_table(l1)?;
        }
    }

    /// Reads an L2 table into memory. One at a time: what another one read and changed would be lost.
    fn load_table(&self, l1: usize) -> io::Result<()> {
        let _one = self.loading.lock();
        let place =
            |offset: Result<u64, &'static str>| offset.map_err(|what| self.corrupt(what, l1 as u64 * 8));
        let offset = {
            let tables = read(&self.tables);
            let offset = tables.l2_offset(l1, &self.geometry);
            if offset.is_ok_and(|o| o == 0 || tables.cache.contains_key(&o)) {
                return Ok(());
            }
            drop(tables);
            place(offset)?
        };
        let fixed = read(&self.layout).fixed(offset);
        if let Some(what) = fixed {
            return Err(self.corrupt(format!("an L2 table lies where {what} is"), offset));
        }
        let mut content = vec![0; self.geometry.cluster() as usize];
        if self.store.read(offset, &mut content)? < content.len() {
            return Err(self.corrupt("an L2 table lies past the end of the file", offset));
        }
        let mut tables = write(&self.tables);
        tables.evict(self.table_limit());
        // It may have been replaced in the meantime; whoever wants it looks again.
        if tables.l2_offset(l1, &self.geometry) == Ok(offset) {
            let table = Table::new(bytes::entries(&content));
            tables.cache.insert(offset, table);
        }
        Ok(())
    }

    /// Changes entries `range` of the L2 table of an L1 entry, after making or copying the table if it is
    /// missing or belongs to a snapshot as well.
    pub(super) fn update<R>(
        &self,
        l1: usize,
        range: Range<usize>,
        change: impl FnOnce(&mut [u64]) -> R,
    ) -> io::Result<R> {
        loop {
            let mut tables = write(&self.tables);
            let raw = tables.l1.get(l1).copied().unwrap_or(0);
            let offset = match Entry::l2_table(raw, &self.geometry) {
                Ok(offset) => offset,
                Err(what) => {
                    drop(tables);
                    return Err(self.corrupt(what, l1 as u64 * 8));
                }
            };
            if offset == 0 {
                self.new_table(&mut tables, l1, vec![0; self.geometry.l2_entries() as usize])?;
                continue;
            }
            let Some(table) = tables.cache.get_mut(&offset) else {
                drop(tables);
                self.load_table(l1)?;
                continue;
            };
            if raw & COPIED == 0 {
                let entries = table.entries.clone();
                self.new_table(&mut tables, l1, entries)?;
                continue;
            }
            widen(&mut table.dirty, range.clone());
            return Ok(change(&mut table.entries[range]));
        }
    }

    /// Gives an L1 entry an L2 table of its own. It is in the file at once, so that it has been written before
    /// the L1 entry is.
    fn new_table(&self, tables: &mut Tables, l1: usize, entries: Vec<u64>) -> io::Result<()> {
        let mut refcounts = self.refcounts.lock();
        let mut layout = write(&self.layout);
        let run = refcounts.allocate(&self.store, &mut layout, 1)?;
        let offset = run.clusters.start << self.geometry.cluster_bits;
        if let Err(e) = self.store.write(offset, &bytes::bytes(&entries)) {
            refcounts.release(&self.store, run.clusters);
            return Err(e);
        }
        let old = Entry::l2_table(tables.l1[l1], &self.geometry).unwrap_or(0);
        tables.l1[l1] = offset | COPIED;
        widen(&mut tables.l1_dirty, l1..l1 + 1);
        tables.cache.insert(offset, Table::new(entries));
        layout.tables.insert(offset);
        if old != 0 {
            tables.cache.remove(&old);
            layout.tables.remove(&old);
            let cluster = old >> self.geometry.cluster_bits;
            refcounts.retire(self.pins.stamp(), cluster..cluster + 1);
        }
        Ok(())
    }
}
