//! The resize inode: a file of old kind whose blocks are those behind the group descriptors, and behind each of their
//! copies, that descriptors grow into.

use super::bytes::Fields;
use super::geometry::{ADDRESSES, has_superblock};
use super::inode::{self, Inode};
use super::{BLOCK, WriteError, Writer};
use crate::Timestamp;

const RESIZE_INODE: u32 = 7;
/// Block numbers in an inode before the one of the block of blocks of block numbers.
const DIRECT: u64 = 12;
const DOUBLE_INDIRECT: usize = 13 * 4;

impl Writer<'_> {
    pub(super) fn write_resize_inode(&mut self) -> Result<(), WriteError> {
        let geometry = self.geometry;
        let reserved = geometry.reserved_descriptor_blocks;
        if reserved == 0 {
            return Ok(());
        }
        let time = Timestamp::seconds(i64::from(self.options.timestamp));
        let mut inode = Inode::new(inode::REGULAR | 0o600, time);
        let top = self.allocator.take_one()?;
        let mut addresses = vec![0; BLOCK as usize];
        // Each reserved block of the first group has the numbers of those that are its copies.
        let copies: Vec<u64> = (1..geometry.groups).filter(|g| has_superblock(*g)).collect();
        for index in geometry.descriptor_blocks..geometry.descriptor_blocks + reserved {
            let block = 1 + index;
            addresses[..].put32((index % ADDRESSES * 4) as usize, block as u32);
            if copies.is_empty() {
                continue;
            }
            let mut bytes = vec![0; BLOCK as usize];
            for (at, group) in copies.iter().enumerate() {
                bytes[..].put32(at * 4, (geometry.group_start(*group) + block) as u32);
            }
            self.write_block(block, &bytes)?;
        }
        self.write_block(top, &addresses)?;
        inode.place[..].put32(DOUBLE_INDIRECT, top as u32);
        inode.blocks = 1 + reserved * (1 + copies.len() as u64);
        inode.size = (DIRECT + ADDRESSES + ADDRESSES * ADDRESSES) * BLOCK;
        self.write_inode(RESIZE_INODE, &inode)
    }
}
