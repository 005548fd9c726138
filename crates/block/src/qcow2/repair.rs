//! Making refcounts agree with the references.

use super::check::Walk;
use super::layout::{Layout, span};
use super::refcount::Refcounts;
use super::report::{CheckReport, Counts};
use super::width::save;
use super::{Qcow2, bytes, header};
use crate::sync::write;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;

impl Qcow2 {
    /// Repairs what can be: refcounts, leaks, and the flags that repeat them. Entries that lead nowhere stay.
    pub(crate) fn repair(&self) -> io::Result<CheckReport> {
        let mut walk = self.walk()?;
        let lost = walk.report.errors;
        walk.compare()?;
        let wrong = walk.report.errors > lost;
        if wrong || self.refcounts.lock().table.is_empty() {
            self.rebuild(&walk.counts)?;
            walk.report.leaks_repaired = walk.report.leaks;
            walk.report.errors_repaired += walk.report.errors - lost;
        } else if lost == 0 {
            // Clusters of entries that lead nowhere may be among them.
            self.give_up(&walk.counts)?;
            walk.report.leaks_repaired = walk.report.leaks;
        }
        self.fix_flags(&mut walk)?;
        let report = walk.report;
        self.store.sync()?;
        let mut header = self.header.lock();
        if header.version >= 3 && !report.is_damaged() {
            header.incompatible &= !(header::DIRTY | header::CORRUPT);
            self.store.write(header::at::FEATURES, &header.feature_bytes())?;
            self.store.sync()?;
        }
        self.started.store(false, Ordering::Release);
        Ok(report)
    }

    /// Lowers refcounts to `counts`.
    fn give_up(&self, counts: &Counts) -> io::Result<()> {
        let per = self.geometry.refcounts();
        let mut refcounts = self.refcounts.lock();
        for index in 0..refcounts.table.len() {
            if refcounts.table[index] == 0 {
                continue;
            }
            let first = index as u64 * per;
            for cluster in first..first + per {
                let should = u64::from(counts.get(cluster));
                if refcounts.get(&self.store, cluster)? > should {
                    refcounts.set(&self.store, cluster, should)?;
                }
            }
            if refcounts.cached() > 64 {
                refcounts.write_dirty(&self.store)?;
                refcounts.evict(32);
            }
        }
        refcounts.write_dirty(&self.store)?;
        refcounts.next = 0;
        self.store.sync()
    }

    fn fix_flags(&self, walk: &mut Walk<'_>) -> io::Result<()> {
        let before = walk.report.errors;
        walk.flags(|l1, l2, raw| {
            let mut tables = write(&self.tables);
            let Some(l2) = l2 else {
                let at = tables.l1_offset + l1 as u64 * 8;
                tables.l1[l1] = raw;
                return self.store.write(at, &raw.to_be_bytes());
            };
            let offset = tables.l2_offset(l1, &self.geometry).unwrap_or(0);
            if let Some(table) = tables.cache.get_mut(&offset) {
                table.entries[l2] = raw;
            }
            match offset {
                0 => Ok(()),
                offset => self.store.write(offset + l2 as u64 * 8, &raw.to_be_bytes()),
            }
        })?;
        walk.report.errors_repaired += walk.report.errors - before;
        Ok(())
    }

    /// Writes all refcounts anew, behind everything else, and then lets the header point there. The old ones are
    /// free from then on.
    fn rebuild(&self, counts: &Counts) -> io::Result<()> {
        let geometry = self.geometry;
        let (cluster, per, bits) = (geometry.cluster(), geometry.refcounts(), geometry.cluster_bits);
        let (counts, end) = self.without_refcounts(counts)?;
        // Blocks for what is in use, and for the table and the blocks themselves.
        let mut blocks: BTreeSet<u64> = counts.iter().map(|(c, _)| c / per).collect();
        let mut table_clusters = 1;
        loop {
            let before = (blocks.len(), table_clusters);
            let last = end + table_clusters + blocks.len() as u64 - 1;
            blocks.extend(end / per..=last / per);
            let entries = blocks.last().map_or(1, |i| i + 1);
            table_clusters = (entries * 8).div_ceil(cluster);
            if before == (blocks.len(), table_clusters) {
                break;
            }
        }
        if table_clusters * cluster > header::MAX_REFCOUNT_TABLE.max(cluster) {
            return Err(io::Error::other(
                "the refcounts of this image would take more than QEMU allows",
            ));
        }
        let max = u64::MAX >> (64 - (1u32 << geometry.refcount_order));
        let own = (end..end + table_clusters + blocks.len() as u64).map(|c| (c, 1));
        // Both are in order, and the second lies behind the first.
        let mut all = counts.into_iter().chain(own).peekable();
        let mut table = vec![0; (table_clusters * cluster / 8) as usize];
        for (i, index) in blocks.into_iter().enumerate() {
            let mut block = vec![0; cluster as usize];
            while let Some((c, count)) = all.next_if(|(c, _)| c / per == index) {
                let count = u64::from(count).min(max);
                save(&mut block, (c % per) as usize, geometry.refcount_order, count);
            }
            let at = (end + table_clusters + i as u64) << bits;
            table[index as usize] = at;
            self.store.write(at, &block)?;
        }
        self.store.write(end << bits, &bytes::bytes(&table))?;
        self.store.sync()?;
        let mut header = self.header.lock();
        header.refcount_table = end << bits;
        header.refcount_table_clusters = table_clusters as u32;
        let mut fields = header.refcount_table.to_be_bytes().to_vec();
        fields.extend(header.refcount_table_clusters.to_be_bytes());
        self.store.write(header::at::REFCOUNT_TABLE, &fields)?;
        self.store.sync()?;
        let mut layout = write(&self.layout);
        *layout = Layout::new(&header, &geometry);
        *self.refcounts.lock() =
            Refcounts::new(&self.store, geometry, header.refcount_table, table, &mut layout)?;
        Ok(())
    }

    /// The counts without those of the old refcount table and blocks; and the first cluster behind everything.
    fn without_refcounts(&self, counts: &Counts) -> io::Result<(Vec<(u64, u32)>, u64)> {
        let bits = self.geometry.cluster_bits;
        let (table, blocks) = {
            let refcounts = self.refcounts.lock();
            (refcounts.table_offset, refcounts.table.clone())
        };
        let len = match blocks.len() as u64 * 8 {
            0 => u64::from(self.header().refcount_table_clusters) << bits,
            len => len,
        };
        let table = span(table, len, &self.geometry);
        let table = table.start >> bits..table.end >> bits;
        let blocks = blocks.into_iter().map(|b| b >> bits);
        let blocks: std::collections::HashSet<u64> = blocks.filter(|b| *b != 0).collect();
        let mut all: Vec<(u64, u32)> = counts.used().collect();
        let end = self.store.len()?.div_ceil(self.geometry.cluster());
        let end = end.max(all.last().map_or(0, |(c, _)| c + 1));
        for (c, count) in &mut all {
            if table.contains(c) || blocks.contains(c) {
                *count -= 1;
            }
        }
        all.retain(|(_, count)| *count > 0);
        Ok((all, end))
    }
}
