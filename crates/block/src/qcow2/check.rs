//! Counting references, and comparing them with the refcounts.

use super::entry::{COPIED, Entry};
use super::layout::span;
use super::report::{CheckReport, Counts};
use super::{Qcow2, bytes, header};
use crate::sync::read;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

/// A walk through all tables.
pub(super) struct Walk<'a> {
    image: &'a Qcow2,
    /// Bytes in the file.
    end: u64,
    pub(super) counts: Counts,
    pub(super) report: CheckReport,
    /// L2 tables, and how often they are referred to.
    l2: BTreeMap<u64, u32>,
}

impl Qcow2 {
    /// Counts all references and compares; nothing is changed.
    pub(crate) fn check(&self) -> io::Result<CheckReport> {
        let mut walk = self.walk()?;
        walk.compare()?;
        walk.flags(|_, _, _| Ok(()))?;
        Ok(walk.report)
    }

    fn refcount(&self, cluster: u64) -> io::Result<u64> {
        let mut refcounts = self.refcounts.lock();
        if refcounts.cached() > 64 {
            refcounts.evict(32);
        }
        refcounts.get(&self.store, cluster)
    }

    pub(super) fn walk(&self) -> io::Result<Walk<'_>> {
        let mut walk = Walk {
            image: self,
            end: self.store.len()?,
            counts: Counts::default(),
            report: CheckReport::default(),
            l2: BTreeMap::new(),
        };
        walk.tables()?;
        walk.l2_tables()?;
        Ok(walk)
    }
}

impl Walk<'_> {
    /// Counts a table that lies in the file; tells if it does not.
    fn count(&mut self, offset: u64, len: u64, what: &str) -> bool {
        let (cluster, bits) = (self.image.geometry.cluster(), self.image.geometry.cluster_bits);
        if len == 0 {
            return false;
        }
        if !offset.is_multiple_of(cluster)
            || offset
                .checked_add(len)
                .is_none_or(|end| end > self.end.next_multiple_of(cluster))
        {
            self.report
                .error(format!("{what} at {offset:#x} is not inside the file"));
            return false;
        }
        let range = span(offset, len, &self.image.geometry);
        self.counts.add(range.start >> bits..range.end >> bits, 1);
        true
    }

    fn tables(&mut self) -> io::Result<()> {
        let image = self.image;
        let cluster = image.geometry.cluster();
        let header = image.header();
        self.count(0, cluster, "the header");
        let (table, blocks) = {
            let refcounts = image.refcounts.lock();
            (refcounts.table_offset, refcounts.table.clone())
        };
        // It may be so wrong that it was not taken over.
        let len = match blocks.len() as u64 * 8 {
            0 => u64::from(header.refcount_table_clusters) * cluster,
            len => len,
        };
        self.count(table, len, "the refcount table");
        let mut seen = HashSet::new();
        for block in blocks.into_iter().filter(|b| *b != 0) {
            match seen.insert(block) {
                true => drop(self.count(block, cluster, "a refcount block")),
                false => self
                    .report
                    .error(format!("two refcount blocks lie at {block:#x}")),
            }
        }
        let l1 = read(&image.tables).l1.clone();
        if self.count(header.l1_offset, l1.len() as u64 * 8, "the L1 table") {
            self.l1(&l1, 1);
        }
        self.snapshots()?;
        if header.autoclear & header::BITMAPS != 0
            && let Some(bitmaps) = header.bitmaps
        {
            self.bitmaps(bitmaps)?;
        }
        Ok(())
    }

    fn snapshots(&mut self) -> io::Result<()> {
        let header = self.image.header();
        if header.snapshots == 0 {
            return Ok(());
        }
        let (list, len) = match self.image.snapshots() {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                self.report.error(e.to_string());
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        self.count(header.snapshots_offset, len, "the snapshot table");
        // Tables that several snapshots name are looked at once.
        let mut l1: HashMap<(u64, u32), u32> = HashMap::new();
        for s in list {
            *l1.entry((s.l1_offset, s.l1_entries)).or_default() += 1;
        }
        for ((offset, entries), times) in l1 {
            let len = u64::from(entries) * 8;
            if self.count(offset, len, "a snapshot's L1 table") {
                if times > 1 {
                    self.report
                        .error(format!("{times} snapshots have one L1 table at {offset:#x}"));
                }
                let mut content = vec![0; len as usize];
                self.image.store.read(offset, &mut content)?;
                self.l1(&bytes::entries(&content), times);
            }
        }
        Ok(())
    }

    fn l1(&mut self, l1: &[u64], times: u32) {
        for raw in l1.iter().filter(|raw| **raw != 0) {
            match Entry::l2_table(*raw, &self.image.geometry) {
                Ok(0) => {}
                Ok(offset) => *self.l2.entry(offset).or_default() += times,
                Err(what) => self.report.error(format!("{what}: {raw:#x}")),
            }
        }
    }

    fn l2_tables(&mut self) -> io::Result<()> {
        let geometry = self.image.geometry;
        let (cluster, bits) = (geometry.cluster(), geometry.cluster_bits);
        let active: HashSet<u64> = self.active().into_iter().map(|(_, offset)| offset).collect();
        for (offset, times) in std::mem::take(&mut self.l2) {
            if offset.checked_add(cluster).is_none_or(|end| end > self.end) {
                self.report
                    .error(format!("an L2 table at {offset:#x} is not inside the file"));
                continue;
            }
            self.counts.add(offset >> bits..(offset >> bits) + 1, times);
            for raw in self.l2_entries(offset)? {
                let (start, len) = match Entry::decode(raw, &geometry) {
                    Err(what) => {
                        self.report
                            .error(format!("{what}: {raw:#x} in the table at {offset:#x}"));
                        continue;
                    }
                    Ok(Entry::Data { host, .. }) => (host, cluster),
                    Ok(Entry::Zero { host: Some(host), .. }) => (host, cluster),
                    Ok(Entry::Compressed { at, len }) => (at, len),
                    Ok(_) => continue,
                };
                self.report.allocated_clusters += u64::from(active.contains(&offset));
                if geometry.data_file {
                    continue;
                }
                if start >= self.end {
                    self.report
                        .error(format!("data at {start:#x} is not inside the file"));
                    continue;
                }
                self.counts
                    .add(start >> bits..((start + len - 1) >> bits) + 1, times);
            }
        }
        Ok(())
    }

    /// Entries as they are in memory, or else in the file.
    fn l2_entries(&self, offset: u64) -> io::Result<Vec<u64>> {
        if let Some(table) = read(&self.image.tables).cache.get(&offset) {
            return Ok(table.entries.clone());
        }
        let mut content = vec![0; self.image.geometry.cluster() as usize];
        self.image.store.read(offset, &mut content)?;
        Ok(bytes::entries(&content))
    }

    /// The active L2 tables: L1 index and offset.
    fn active(&self) -> Vec<(usize, u64)> {
        let tables = read(&self.image.tables);
        let all = tables.l1.iter().enumerate();
        all.filter_map(|(i, raw)| Some((i, Entry::l2_table(*raw, &self.image.geometry).ok()?)))
            .filter(|(_, offset)| {
                *offset != 0
                    && offset
                        .checked_add(self.image.geometry.cluster())
                        .is_some_and(|e| e <= self.end)
            })
            .collect()
    }

    fn bitmaps(&mut self, bitmaps: header::Bitmaps) -> io::Result<()> {
        let cluster = self.image.geometry.cluster();
        if bitmaps.directory_size > 64 << 20
            || !self.count(bitmaps.directory, bitmaps.directory_size, "the bitmap directory")
        {
            return Ok(());
        }
        let mut directory = vec![0; bitmaps.directory_size as usize];
        self.image.store.read(bitmaps.directory, &mut directory)?;
        let mut at = 0;
        for _ in 0..bitmaps.count {
            let Some(entry) = directory.get(at..at + 24) else {
                self.report.error("the bitmap directory is cut off".into());
                return Ok(());
            };
            let (table, entries) = (bytes::be64(entry, 0), u64::from(bytes::be32(entry, 8)));
            let (name, extra) = (bytes::be16(entry, 18), bytes::be32(entry, 20));
            at += (24 + usize::from(name) + extra as usize).next_multiple_of(8);
            if entries * 8 > 64 << 20 || !self.count(table, entries * 8, "a bitmap's table") {
                continue;
            }
            let mut content = vec![0; entries as usize * 8];
            self.image.store.read(table, &mut content)?;
            for raw in bytes::entries(&content) {
                match raw & super::entry::OFFSET {
                    0 => {}
                    offset => drop(self.count(offset, cluster, "a bitmap")),
                }
            }
        }
        Ok(())
    }

    /// Compares with the refcounts.
    pub(super) fn compare(&mut self) -> io::Result<()> {
        let image = self.image;
        let per = image.geometry.refcounts();
        let bits = image.geometry.cluster_bits;
        let mut refcounts = image.refcounts.lock();
        let end = self.end;
        let max = u64::MAX >> (64 - (1u32 << image.geometry.refcount_order));
        let look = |cluster: u64, is: u64, should: u32, report: &mut CheckReport| {
            let at = cluster << bits;
            if is == u64::from(should) {
                return;
            }
            if is < u64::from(should) {
                let beyond = if u64::from(should) > max {
                    ", which is more than it can be"
                } else {
                    ""
                };
                report.error(format!(
                    "the cluster at {at:#x} has refcount {is} and {should} references{beyond}"
                ));
            } else if at < end {
                // Past the end a count costs nothing. It is put right with the others.
                report.leaks += 1;
                report.tell(format!(
                    "leaked: the cluster at {at:#x} has refcount {is} and {should} references"
                ));
            }
        };
        for index in 0..refcounts.table.len() {
            if refcounts.table[index] == 0 {
                continue;
            }
            let first = index as u64 * per;
            for cluster in first..first + per {
                let is = refcounts.get(&image.store, cluster)?;
                look(cluster, is, self.counts.get(cluster), &mut self.report);
            }
            if refcounts.cached() > 64 {
                refcounts.evict(32);
            }
        }
        // What no block counts.
        for (cluster, should) in self.counts.used() {
            let index = usize::try_from(cluster / per).unwrap_or(usize::MAX);
            if refcounts.table.get(index).is_none_or(|e| *e == 0) {
                look(cluster, 0, should, &mut self.report);
            }
        }
        Ok(())
    }

    /// Looks at the flags that say that a refcount is one, as it is counted in the image. `fix` gets what is wrong: the L1 index, the L2 index
    /// (none for the L1 entry itself) and the entry as it should be.
    pub(super) fn flags(
        &mut self,
        mut fix: impl FnMut(usize, Option<usize>, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let geometry = self.image.geometry;
        let bits = geometry.cluster_bits;
        for (l1, offset) in self.active() {
            let raw = read(&self.image.tables).l1[l1];
            let one = self.image.refcount(offset >> bits)? == 1;
            if one != (raw & COPIED != 0) {
                self.report.error(format!(
                    "the L1 entry {raw:#x} is wrong about its refcount being one"
                ));
                fix(l1, None, raw ^ COPIED)?;
            }
            for (l2, raw) in self.l2_entries(offset)?.into_iter().enumerate() {
                let (host, copied) = match Entry::decode(raw, &geometry) {
                    Ok(Entry::Data { host, copied }) => (host, copied),
                    Ok(Entry::Zero {
                        host: Some(host),
                        copied,
                    }) => (host, copied),
                    _ => continue,
                };
                let one = geometry.data_file || self.image.refcount(host >> bits)? == 1;
                if one != copied {
                    self.report.error(format!(
                        "the L2 entry {raw:#x} is wrong about its refcount being one"
                    ));
                    fix(l1, Some(l2), raw ^ COPIED)?;
                }
            }
        }
        Ok(())
    }
}
