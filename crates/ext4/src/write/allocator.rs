//! Which blocks are taken: from the disk's beginning on, in order.

use super::BLOCK;
use super::WriteError;
use super::geometry::{GROUP_BLOCKS, Geometry};

pub(super) struct Allocator<'a> {
    geometry: &'a Geometry,
    /// What is before it is taken.
    next: u64,
}

impl<'a> Allocator<'a> {
    pub(super) fn new(geometry: &'a Geometry) -> Self {
        Self { geometry, next: 0 }
    }

    /// Takes blocks that follow each other: at most `count`, at least one. Returns the first and how many.
    pub(super) fn take(&mut self, count: u64) -> Result<(u64, u64), WriteError> {
        loop {
            let group = self.next / GROUP_BLOCKS;
            if group >= self.geometry.groups {
                let size = self.geometry.blocks * BLOCK;
                return Err(WriteError::Full { size });
            }
            let end = self.geometry.group_end(group);
            let start = self
                .next
                .max(self.geometry.group_start(group) + self.geometry.prefix(group));
            let taken = count.min(end.saturating_sub(start));
            if taken > 0 {
                self.next = start + taken;
                return Ok((start, taken));
            }
            self.next = self.geometry.group_start(group + 1);
        }
    }

    /// Takes one block.
    pub(super) fn take_one(&mut self) -> Result<u64, WriteError> {
        self.take(1).map(|(block, _)| block)
    }

    /// How many blocks at a group's beginning are taken; none behind them is.
    pub(super) fn taken(&self, group: u64) -> u64 {
        let start = self.geometry.group_start(group);
        let fixed = self.geometry.prefix(group);
        let end = self.geometry.group_end(group);
        self.next.min(end).saturating_sub(start).max(fixed)
    }
}
