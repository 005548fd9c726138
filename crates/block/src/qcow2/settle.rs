//! Refcounts on their way to the file, and out of memory.

use super::bytes;
use super::refcount::Refcounts;
use crate::store::Store;
use std::io;

impl Refcounts {
    /// Writes blocks that the table on the disk does not know yet; returns which.
    pub(crate) fn write_fresh(&mut self, store: &Store) -> io::Result<Vec<usize>> {
        let mut written = vec![];
        for (&index, block) in self.blocks.iter_mut().filter(|(_, b)| b.fresh) {
            store.write(self.table[index], &block.bytes)?;
            block.dirty = None;
            written.push(index);
        }
        Ok(written)
    }

    /// These are on the disk.
    pub(crate) fn settle(&mut self, blocks: &[usize]) {
        for index in blocks {
            if let Some(block) = self.blocks.get_mut(index) {
                block.fresh = false;
            }
        }
    }

    /// Writes what differs from the file, when nothing is fresh.
    pub(crate) fn write_dirty(&mut self, store: &Store) -> io::Result<()> {
        if let Some(dirty) = self.table_dirty.clone() {
            let entries = bytes::bytes(&self.table[dirty.clone()]);
            store.write(self.table_offset + dirty.start as u64 * 8, &entries)?;
            self.table_dirty = None;
        }
        for (&index, block) in &mut self.blocks {
            if let Some(dirty) = block.dirty.clone() {
                let dirty = dirty.start / 512 * 512..dirty.end.next_multiple_of(512);
                store.write(self.table[index] + dirty.start as u64, &block.bytes[dirty])?;
                block.dirty = None;
            }
        }
        Ok(())
    }

    /// Whether something differs from the file.
    pub(crate) fn is_dirty(&self) -> bool {
        self.table_dirty.is_some() || self.blocks.values().any(|b| b.dirty.is_some() || b.fresh)
    }

    /// Whether some block has yet to get to the disk before the table that points to it.
    pub(crate) fn has_fresh(&self) -> bool {
        self.blocks.values().any(|b| b.fresh)
    }

    /// Forgets the blocks used longest ago that are as in the file, until `limit` are left.
    pub(crate) fn evict(&mut self, limit: usize) {
        let mut clean: Vec<(u64, usize)> = self
            .blocks
            .iter()
            .filter(|(_, b)| b.dirty.is_none() && !b.fresh)
            .map(|(i, b)| (b.used, *i))
            .collect();
        clean.sort_unstable();
        let surplus = self.blocks.len().saturating_sub(limit);
        for (_, index) in clean.into_iter().take(surplus) {
            self.blocks.remove(&index);
        }
    }

    /// Blocks in memory.
    pub(crate) fn cached(&self) -> usize {
        self.blocks.len()
    }

    /// Everything to the disk, in order.
    pub(crate) fn write_all(&mut self, store: &Store) -> io::Result<()> {
        while self.has_fresh() {
            let fresh = self.write_fresh(store)?;
            store.sync()?;
            self.settle(&fresh);
        }
        self.write_dirty(store)?;
        store.sync()
    }
}
