//! Where what is on the disk, as mke2fs would have it: block groups of 128 MiB, of which sixteen at a time have their
//! bitmaps and inode tables in the first one (flex_bg).

use super::{BLOCK, Options, WriteError};

pub(super) const MIN_SIZE: u64 = 16 << 20;
pub(super) const MAX_SIZE: u64 = 64 << 40;
/// Blocks of a group: as many as a block has bits.
pub(super) const GROUP_BLOCKS: u64 = BLOCK * 8;
/// Inodes of a group, at most.
const MAX_GROUP_INODES: u64 = BLOCK * 8;
pub(super) const INODE_SIZE: u64 = 256;
pub(super) const BLOCK_INODES: u64 = BLOCK / INODE_SIZE;
/// Bytes of a group descriptor, and how many a block has.
pub(super) const DESCRIPTOR: u64 = 64;
const BLOCK_DESCRIPTORS: u64 = BLOCK / DESCRIPTOR;
/// Block numbers in a block.
pub(super) const ADDRESSES: u64 = BLOCK / 4;

pub(super) struct Geometry {
    pub(super) blocks: u64,
    pub(super) groups: u64,
    pub(super) group_inodes: u64,
    /// Blocks of a group's inode table.
    pub(super) table_blocks: u64,
    pub(super) descriptor_blocks: u64,
    /// Blocks behind the descriptors into which they can grow while mounted.
    pub(super) reserved_descriptor_blocks: u64,
    /// Groups that have their tables together are two to the power of this.
    pub(super) log_flex: u32,
}

impl Geometry {
    /// For a disk with at least that many inodes.
    pub(super) fn new(options: &Options, inodes: u32) -> Result<Self, WriteError> {
        if !(MIN_SIZE..=MAX_SIZE).contains(&options.size) {
            return Err(WriteError::Size(options.size));
        }
        let full = || WriteError::Full { size: options.size };
        let mut blocks = options.size / BLOCK;
        let geometry = loop {
            let geometry = Self::of_blocks(blocks, options.size, inodes).ok_or_else(full)?;
            // A last group with room for little more than its own tables is no use.
            let last = geometry.groups - 1;
            if last == 0
                || geometry.group_end(last) - geometry.group_start(last) >= geometry.prefix(last) + 50
            {
                break geometry;
            }
            blocks = geometry.group_start(last);
        };
        match geometry.group_end(0) < geometry.prefix(0) + 50 {
            true => Err(full()),
            false => Ok(geometry),
        }
    }

    fn of_blocks(blocks: u64, size: u64, inodes: u32) -> Option<Self> {
        let groups = blocks.div_ceil(GROUP_BLOCKS);
        // Some to spare for what the guest makes.
        let wanted = (size / inode_ratio(size)).max(u64::from(inodes) + u64::from(inodes) / 16);
        let group_inodes = wanted
            .div_ceil(groups)
            .next_multiple_of(BLOCK_INODES)
            .min(MAX_GROUP_INODES);
        if group_inodes * groups < u64::from(inodes) || group_inodes * groups > u64::from(u32::MAX) {
            return None;
        }
        let descriptor_blocks = groups.div_ceil(BLOCK_DESCRIPTORS);
        let mut geometry = Self {
            blocks,
            groups,
            group_inodes,
            table_blocks: group_inodes / BLOCK_INODES,
            descriptor_blocks,
            reserved_descriptor_blocks: reserved(blocks, descriptor_blocks),
            log_flex: 4,
        };
        // The tables leave half of the group they are in.
        while geometry.log_flex > 0 && geometry.prefix(0) > GROUP_BLOCKS / 2 {
            geometry.log_flex -= 1;
        }
        Some(geometry)
    }

    pub(super) fn inodes(&self) -> u64 {
        self.groups * self.group_inodes
    }

    pub(super) fn group_start(&self, group: u64) -> u64 {
        group * GROUP_BLOCKS
    }

    pub(super) fn group_end(&self, group: u64) -> u64 {
        (self.group_start(group) + GROUP_BLOCKS).min(self.blocks)
    }

    /// Blocks of the superblock's copy in a group, and of the descriptors behind it.
    pub(super) fn super_blocks(&self, group: u64) -> u64 {
        match has_superblock(group) {
            true => 1 + self.descriptor_blocks + self.reserved_descriptor_blocks,
            false => 0,
        }
    }

    /// Blocks at a group's beginning that are the file system's own; there are no others but the journal's.
    pub(super) fn prefix(&self, group: u64) -> u64 {
        let (first, count) = self.flex(group);
        let tables = match first == group {
            true => count * (2 + self.table_blocks),
            false => 0,
        };
        self.super_blocks(group) + tables
    }

    pub(super) fn block_bitmap(&self, group: u64) -> u64 {
        let (first, _) = self.flex(group);
        self.group_start(first) + self.super_blocks(first) + (group - first)
    }

    pub(super) fn inode_bitmap(&self, group: u64) -> u64 {
        let (_, count) = self.flex(group);
        self.block_bitmap(group) + count
    }

    pub(super) fn inode_table(&self, group: u64) -> u64 {
        let (first, count) = self.flex(group);
        self.block_bitmap(first) + 2 * count + (group - first) * self.table_blocks
    }

    /// Where an inode is, in bytes.
    pub(super) fn inode_offset(&self, inode: u32) -> u64 {
        let index = u64::from(inode) - 1;
        let (group, index) = (index / self.group_inodes, index % self.group_inodes);
        self.inode_table(group) * BLOCK + index * INODE_SIZE
    }

    /// Blocks that are nobody's own.
    pub(super) fn data_blocks(&self) -> u64 {
        let fixed: u64 = (0..self.groups).map(|group| self.prefix(group)).sum();
        self.blocks - fixed
    }

    /// Blocks of the journal: mke2fs's choice.
    pub(super) fn journal_blocks(&self) -> u64 {
        match self.blocks {
            ..0x8000 => 1 << 10,
            0x8000..0x4_0000 => 1 << 12,
            0x4_0000..0x8_0000 => 1 << 13,
            0x8_0000..0x40_0000 => 1 << 14,
            0x40_0000..0x80_0000 => 1 << 15,
            0x80_0000..0x100_0000 => 1 << 16,
            0x100_0000..0x200_0000 => 1 << 17,
            _ => 1 << 18,
        }
    }

    /// The first of the groups whose tables are with this one's, and how many there are.
    fn flex(&self, group: u64) -> (u64, u64) {
        let first = group >> self.log_flex << self.log_flex;
        (first, (self.groups - first).min(1 << self.log_flex))
    }
}

/// Group 0 and, of the others, 1 and the powers of 3, 5 and 7 (sparse_super).
pub(super) fn has_superblock(group: u64) -> bool {
    let power_of = |base: u64| {
        let mut power = base;
        while power < group {
            power *= base;
        }
        power == group
    };
    group <= 1 || [3, 5, 7].into_iter().any(power_of)
}

/// Bytes for each inode: mke2fs's types small, default, big and huge.
fn inode_ratio(size: u64) -> u64 {
    match size {
        ..0x2000_0000 => 4 << 10,
        0x2000_0000..0x400_0000_0000 => 16 << 10,
        0x400_0000_0000..0x1000_0000_0000 => 32 << 10,
        _ => 64 << 10,
    }
}

/// Descriptor blocks for growth by a factor of 1024, or to where block numbers have more than 32 bits. Beyond, Linux
/// grows with descriptors in each group (meta_bg).
fn reserved(blocks: u64, descriptor_blocks: u64) -> u64 {
    let most = u64::from(u32::MAX);
    if blocks > most {
        return 0;
    }
    let goal = (blocks * 1024).min(most).div_ceil(GROUP_BLOCKS);
    (goal.div_ceil(BLOCK_DESCRIPTORS) - descriptor_blocks).min(ADDRESSES)
}
