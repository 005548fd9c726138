//! A larger refcount table.

use super::bytes;
use super::header::{MAX_REFCOUNT_TABLE, at};
use super::layout::{Layout, span};
use super::refcount::{Refcounts, widen};
use super::width::save;
use crate::error::Corrupt;
use crate::store::Store;
use std::io;
use std::ops::Range;

impl Refcounts {
    /// Exactly `count` free clusters in a row, which then have a count of one.
    pub(crate) fn allocate_row(
        &mut self,
        store: &Store,
        layout: &mut Layout,
        count: u64,
    ) -> io::Result<Range<u64>> {
        let run = self.allocate(store, layout, count)?.clusters;
        if run.end - run.start == count {
            return Ok(run);
        }
        self.release(store, run);
        // Usually a new refcount block lies in what it counts. Here that would be in the way: they come before.
        let per = self.geometry.refcounts();
        let blocks = count / per + 2;
        let (start, indices) = loop {
            let start = (self.in_use()? + 2 * blocks + 2).next_multiple_of(per);
            let indices = start / per..(start + count - 1) / per + 1;
            if indices.end <= self.table.len() as u64 {
                break (start, indices);
            }
            self.grow(store, layout, start)?;
        };
        let mut places = vec![];
        while places.len() < (indices.end - indices.start) as usize {
            places.extend(self.allocate(store, layout, 1)?.clusters);
        }
        self.write_all(store)?;
        for (index, place) in indices.zip(places) {
            let index = index as usize;
            let offset = place << self.geometry.cluster_bits;
            if self.table[index] != 0 {
                // It was made in the meantime.
                self.release(store, place..place + 1);
                continue;
            }
            self.table[index] = offset;
            widen(&mut self.table_dirty, index..index + 1);
            layout.tables.insert(offset);
            self.insert_new(index);
        }
        for cluster in start..start + count {
            if self.get(store, cluster)? != 0 {
                return Err(Corrupt::new(store.path(), "a cluster past the end is in use", cluster).into());
            }
            self.set(store, cluster, 1)?;
        }
        self.used_up_to(start + count);
        Ok(start..start + count)
    }

    /// Moves the refcount table to the free clusters from `start` on, where no block has been yet, and makes
    /// the blocks that count them. Nothing changes if this fails.
    pub(super) fn grow(&mut self, store: &Store, layout: &mut Layout, start: u64) -> io::Result<()> {
        let geometry = self.geometry;
        let (cluster, per) = (geometry.cluster(), geometry.refcounts());
        let first = start / per;
        // The table and the new blocks have to be counted by the new blocks themselves.
        let (mut table_clusters, mut blocks) = (0, 1);
        let last = loop {
            let last = (start + table_clusters + blocks - 1) / per;
            let entries = (last + 1).max(self.table.len() as u64 * 3 / 2);
            let (t, b) = ((entries * 8).div_ceil(cluster), last - first + 1);
            if t <= table_clusters && b <= blocks {
                break last;
            }
            (table_clusters, blocks) = (t.max(table_clusters), b.max(blocks));
        };
        let table_bytes = table_clusters * cluster;
        if table_bytes > MAX_REFCOUNT_TABLE.max(cluster) {
            return Err(rustix::io::Errno::FBIG.into());
        }
        let mut table = self.table.clone();
        table.resize((table_bytes / 8) as usize, 0);
        let mut new = vec![];
        for i in 0..blocks {
            let at = (start + table_clusters + i) << geometry.cluster_bits;
            table[(first + i) as usize] = at;
            new.push((at, vec![0; cluster as usize]));
        }
        debug_assert!(last - first < blocks);
        for used in start..start + table_clusters + blocks {
            let block = &mut new[(used / per - first) as usize].1;
            save(block, (used % per) as usize, geometry.refcount_order, 1);
        }
        // The new table also points to blocks that are only in memory so far.
        let fresh = self.write_fresh(store)?;
        for (at, block) in &new {
            store.write(*at, block)?;
        }
        let offset = start << geometry.cluster_bits;
        store.write(offset, &bytes::bytes(&table))?;
        store.sync()?;
        self.settle(&fresh);
        let mut fields = offset.to_be_bytes().to_vec();
        fields.extend((table_clusters as u32).to_be_bytes());
        store.write(at::REFCOUNT_TABLE, &fields)?;
        store.sync()?;
        let old = span(self.table_offset, self.table.len() as u64 * 8, &geometry);
        (self.table, self.table_offset, self.table_dirty) = (table, offset, None);
        layout.refcount_table = span(offset, table_bytes, &geometry);
        layout.tables.extend(new.iter().map(|(at, _)| *at));
        self.used_up_to(start + table_clusters + blocks);
        self.release(
            store,
            old.start >> geometry.cluster_bits..old.end >> geometry.cluster_bits,
        );
        Ok(())
    }
}
