//! Group descriptors and bitmaps. Of groups that nothing was put into only the descriptor is written: their bitmaps
//! and inode tables count as uninitialized.

use super::allocator::Allocator;
use super::bytes::Fields;
use super::geometry::{DESCRIPTOR, GROUP_BLOCKS, Geometry, has_superblock};
use super::{BLOCK, WriteError, Writer};

const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;
/// The inode table is zeroes where it is not in use, as a new file is.
const INODE_ZEROED: u16 = 4;

struct Group {
    taken_blocks: u64,
    free_blocks: u64,
    used_inodes: u64,
    directories: u32,
    flags: u16,
    block_checksum: u32,
    inode_checksum: u32,
}

pub(super) struct Groups {
    groups: Vec<Group>,
}

impl Groups {
    pub(super) fn new(geometry: &Geometry, taken: &Allocator<'_>, inodes: u32, directories: &[u32]) -> Self {
        let groups = (0..geometry.groups).map(|group| {
            let size = geometry.group_end(group) - geometry.group_start(group);
            let taken_blocks = taken.taken(group);
            let used_inodes = u64::from(inodes)
                .saturating_sub(group * geometry.group_inodes)
                .min(geometry.group_inodes);
            let mut flags = INODE_ZEROED;
            if used_inodes == 0 {
                flags |= INODE_UNINIT;
            }
            // What is known without a bitmap is the superblock's copy alone.
            let derived = taken_blocks == geometry.super_blocks(group);
            if derived && group + 1 < geometry.groups {
                flags |= BLOCK_UNINIT;
            }
            Group {
                taken_blocks,
                free_blocks: size - taken_blocks,
                used_inodes,
                directories: directories[group as usize],
                flags,
                block_checksum: 0,
                inode_checksum: 0,
            }
        });
        Self {
            groups: groups.collect(),
        }
    }

    pub(super) fn free_blocks(&self) -> u64 {
        self.groups.iter().map(|g| g.free_blocks).sum()
    }

    pub(super) fn used_inodes(&self) -> u64 {
        self.groups.iter().map(|g| g.used_inodes).sum()
    }
}

impl Writer<'_> {
    pub(super) fn write_bitmaps(&self, groups: &mut Groups, number: u64) -> Result<(), WriteError> {
        let geometry = self.geometry;
        let group = &mut groups.groups[number as usize];
        if group.flags & BLOCK_UNINIT == 0 {
            let size = geometry.group_end(number) - geometry.group_start(number);
            let bitmap = bitmap(group.taken_blocks, size);
            group.block_checksum = self.checksums.of(&[&bitmap]);
            self.write_block(geometry.block_bitmap(number), &bitmap)?;
        }
        if group.flags & INODE_UNINIT == 0 {
            let bitmap = bitmap(group.used_inodes, geometry.group_inodes);
            let counted = &bitmap[..geometry.group_inodes as usize / 8];
            group.inode_checksum = self.checksums.of(&[counted]);
            self.write_block(geometry.inode_bitmap(number), &bitmap)?;
        }
        Ok(())
    }

    /// Writes the descriptors behind the superblock and behind each of its copies.
    pub(super) fn write_descriptors(&self, groups: &Groups) -> Result<(), WriteError> {
        // Of a huge disk they are many MiB: they go a piece at a time.
        const PIECE: usize = 4096;
        for (at, piece) in groups.groups.chunks(PIECE).enumerate() {
            let first = (at * PIECE) as u64;
            let mut bytes = vec![0; (piece.len() as u64 * DESCRIPTOR).next_multiple_of(BLOCK) as usize];
            let fields = bytes.chunks_exact_mut(DESCRIPTOR as usize);
            for ((number, group), fields) in (first..).zip(piece).zip(fields) {
                self.describe(number, group, fields);
            }
            for copy in (0..self.geometry.groups).filter(|g| has_superblock(*g)) {
                let block = self.geometry.group_start(copy) + 1 + first * DESCRIPTOR / BLOCK;
                self.write_block(block, &bytes)?;
            }
        }
        Ok(())
    }

    /// `struct ext4_group_desc`.
    fn describe(&self, number: u64, group: &Group, fields: &mut [u8]) {
        let geometry = self.geometry;
        let split16 = |fields: &mut [u8], low: usize, high: usize, value: u64| {
            fields.put16(low, value as u16);
            fields.put16(high, (value >> 16) as u16);
        };
        fields.put_split(0x00, 0x20, geometry.block_bitmap(number));
        fields.put_split(0x04, 0x24, geometry.inode_bitmap(number));
        fields.put_split(0x08, 0x28, geometry.inode_table(number));
        let free_inodes = geometry.group_inodes - group.used_inodes;
        split16(fields, 0x0c, 0x2c, group.free_blocks);
        split16(fields, 0x0e, 0x2e, free_inodes);
        split16(fields, 0x10, 0x30, u64::from(group.directories));
        fields.put16(0x12, group.flags);
        split16(fields, 0x18, 0x38, u64::from(group.block_checksum));
        split16(fields, 0x1a, 0x3a, u64::from(group.inode_checksum));
        // bg_itable_unused: inodes are used in order.
        split16(fields, 0x1c, 0x32, free_inodes);
        let checksum = self.checksums.of(&[&(number as u32).to_le_bytes(), fields]);
        fields.put16(0x1e, checksum as u16);
    }
}

/// A block whose first `set` bits are set, and those from `size` on, which stand for nothing.
fn bitmap(set: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK as usize];
    let mut fill = |from: u64, to: u64| {
        for bit in from..to {
            bytes[bit as usize / 8] |= 1 << (bit % 8);
        }
    };
    fill(0, set);
    fill(size, GROUP_BLOCKS);
    bytes
}
