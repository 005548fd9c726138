//! Extents: which blocks of a file are where.

use super::bytes::Fields;
use super::{BLOCK, Block, WriteError, Writer};

/// Blocks of one extent, at most; more would mark it as unwritten.
const MAX_LENGTH: u64 = 1 << 15;
const MAGIC: u16 = 0xf30a;
/// Bytes of a header, and of an entry of either kind.
const HEADER: usize = 12;
const ENTRY: usize = 12;
/// Entries in i_block.
const ROOT_ENTRIES: usize = 4;
/// Entries of a block, which ends with a checksum.
const BLOCK_ENTRIES: usize = (BLOCK as usize - HEADER - 4) / ENTRY;

#[derive(Clone, Copy)]
struct Extent {
    /// The first block in the file.
    logical: u32,
    length: u16,
    /// The first block on the disk.
    physical: u64,
}

/// The extents of one file, in order.
#[derive(Default)]
pub(super) struct Extents {
    extents: Vec<Extent>,
    blocks: u64,
}

impl Extents {
    /// Blocks that follow each other, behind all others of the file.
    pub(super) fn push(&mut self, mut logical: u64, mut physical: u64, mut count: u64) {
        self.blocks += count;
        if let Some(last) = self.extents.last_mut() {
            let length = u64::from(last.length);
            if u64::from(last.logical) + length == logical && last.physical + length == physical {
                let more = count.min(MAX_LENGTH - length);
                last.length += more as u16;
                (logical, physical, count) = (logical + more, physical + more, count - more);
            }
        }
        while count > 0 {
            let length = count.min(MAX_LENGTH);
            self.extents.push(Extent {
                logical: logical as u32,
                length: length as u16,
                physical,
            });
            (logical, physical, count) = (logical + length, physical + length, count - length);
        }
    }
}

/// An entry of a level of the tree: the first block it is about, and its bytes.
type Level = Vec<(u32, [u8; ENTRY])>;

impl Writer<'_> {
    /// Writes what of the tree does not fit into the inode. Returns i_block, and how many blocks there are in all.
    pub(super) fn write_extents(
        &mut self,
        inode: u32,
        extents: &Extents,
    ) -> Result<([u8; 60], u64), WriteError> {
        let mut blocks = extents.blocks;
        let mut level: Level = extents.extents.iter().map(leaf_entry).collect();
        let mut depth = 0;
        while level.len() > ROOT_ENTRIES {
            let mut above = Level::new();
            for entries in level.chunks(BLOCK_ENTRIES) {
                let mut block: Block = [0; BLOCK as usize];
                fill(&mut block[..BLOCK as usize - 4], entries, BLOCK_ENTRIES, depth);
                let (counted, checksum) = block.split_at_mut(BLOCK as usize - 4);
                checksum.put32(0, self.checksums.of_inode(inode, &[counted]));
                let at = self.allocator.take_one()?;
                self.write_block(at, &block)?;
                blocks += 1;
                above.push(index_entry(entries[0].0, at));
            }
            level = above;
            depth += 1;
        }
        let mut place = [0; 60];
        fill(&mut place, &level, ROOT_ENTRIES, depth);
        Ok((place, blocks))
    }
}

fn fill(out: &mut [u8], entries: &[(u32, [u8; ENTRY])], most: usize, depth: u16) {
    out.put16(0, MAGIC);
    out.put16(2, entries.len() as u16);
    out.put16(4, most as u16);
    out.put16(6, depth);
    for (at, (_, entry)) in entries.iter().enumerate() {
        out.put(HEADER + at * ENTRY, entry);
    }
}

fn leaf_entry(extent: &Extent) -> (u32, [u8; ENTRY]) {
    let mut bytes = [0; ENTRY];
    bytes[..].put32(0, extent.logical);
    bytes[..].put16(4, extent.length);
    bytes[..].put16(6, (extent.physical >> 32) as u16);
    bytes[..].put32(8, extent.physical as u32);
    (extent.logical, bytes)
}

fn index_entry(logical: u32, block: u64) -> (u32, [u8; ENTRY]) {
    let mut bytes = [0; ENTRY];
    bytes[..].put32(0, logical);
    bytes[..].put32(4, block as u32);
    bytes[..].put16(8, (block >> 32) as u16);
    (logical, bytes)
}
