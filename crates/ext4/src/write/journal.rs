//! The journal (jbd2): empty, so only its superblock is written.

use super::extents::Extents;
use super::inode::{self, Inode};
use super::{BLOCK, WriteError, Writer};
use crate::Timestamp;

const JOURNAL_INODE: u32 = 8;
const MAGIC: u32 = 0xc03b_3998;
const SUPERBLOCK_V2: u32 = 4;

impl Writer<'_> {
    /// Makes the journal. Returns its inode, of which the superblock has a copy.
    pub(super) fn write_journal(&mut self) -> Result<Inode, WriteError> {
        let blocks = self.geometry.journal_blocks();
        let time = Timestamp::seconds(i64::from(self.options.timestamp));
        let mut inode = Inode::new(inode::REGULAR | 0o600, time);
        let mut extents = Extents::default();
        let mut done = 0;
        while done < blocks {
            let (physical, count) = self.allocator.take(blocks - done)?;
            if done == 0 {
                self.write_block(physical, &self.journal_superblock(blocks))?;
            }
            extents.push(done, physical, count);
            done += count;
        }
        (inode.place, inode.blocks) = self.write_extents(JOURNAL_INODE, &extents)?;
        inode.size = blocks * BLOCK;
        inode.flags = inode::EXTENTS;
        self.write_inode(JOURNAL_INODE, &inode)?;
        Ok(inode)
    }

    /// `struct journal_superblock_s`, big-endian.
    fn journal_superblock(&self, blocks: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK as usize];
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        put(0x00, MAGIC);
        put(0x04, SUPERBLOCK_V2);
        put(0x0c, BLOCK as u32);
        put(0x10, blocks as u32);
        // The first block of the log and the first transaction; s_start = 0: there is none.
        put(0x14, 1);
        put(0x18, 1);
        // s_nr_users.
        put(0x40, 1);
        bytes[0x30..0x40].copy_from_slice(&self.options.uuid);
        bytes
    }
}
