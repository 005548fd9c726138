//! Directories: entries in blocks that end with a checksum.

use super::bytes::Fields;
use super::extents::Extents;
use super::inode::{self, Inode};
use super::{BLOCK, Block, FIRST_INODE, Numbered, Plan, ROOT, ROOT_INODE, WriteError, Writer};
use crate::Timestamp;
use crate::tree::{Id, Kind, Tree};

/// Bytes of the checksum's entry at a block's end.
const TAIL: usize = 12;
/// Where entries end.
const END: usize = BLOCK as usize - TAIL;
/// Bytes of an entry before its name.
const HEAD: usize = 8;
/// Subdirectories that a link count can tell; with more it is 1 (dir_nlink).
const MAX_LINKS: u64 = 65_000;
/// Blocks of lost+found: room for what e2fsck finds.
const LOST_FOUND_BLOCKS: u64 = 4;
const LOST_FOUND: &[u8] = b"lost+found";

impl Writer<'_> {
    pub(super) fn write_directory(
        &mut self,
        plan: &Plan,
        numbered: &Numbered,
        inode: &mut Inode,
    ) -> Result<(), WriteError> {
        let tree = self.tree;
        let mut out = Blocks::new(numbered.inode);
        let mut subdirectories = 0;
        out.add(self, b".", numbered.inode, 2)?;
        out.add(self, b"..", numbered.parent, 2)?;
        if numbered.id == ROOT && !plan.has_lost_found {
            out.add(self, LOST_FOUND, FIRST_INODE, 2)?;
            subdirectories += 1;
        }
        for (name, id) in tree.entries(numbered.id) {
            let file_type = file_type(tree.node(id).kind());
            subdirectories += u64::from(file_type == 2);
            out.add(self, name, plan.inodes[id], file_type)?;
        }
        out.finish(self, inode)?;
        inode.links = match subdirectories + 2 {
            links if links < MAX_LINKS => links as u16,
            _ => 1,
        };
        Ok(())
    }

    pub(super) fn write_lost_found(&mut self) -> Result<(), WriteError> {
        let time = Timestamp::seconds(i64::from(self.options.timestamp));
        let mut inode = Inode::new(inode::DIRECTORY | 0o700, time);
        let mut out = Blocks::new(FIRST_INODE);
        out.add(self, b".", FIRST_INODE, 2)?;
        out.add(self, b"..", ROOT_INODE, 2)?;
        for _ in 1..LOST_FOUND_BLOCKS {
            out.next_block(self)?;
        }
        out.finish(self, &mut inode)?;
        inode.links = 2;
        self.write_inode(FIRST_INODE, &inode)
    }
}

/// A directory's blocks, filled one after another.
struct Blocks {
    inode: u32,
    block: Box<Block>,
    /// Where the last entry begins, and where the next one will.
    last: usize,
    next: usize,
    done: u64,
    extents: Extents,
}

impl Blocks {
    fn new(inode: u32) -> Self {
        Self {
            inode,
            block: Box::new([0; BLOCK as usize]),
            last: 0,
            next: 0,
            done: 0,
            extents: Extents::default(),
        }
    }

    /// `struct ext4_dir_entry_2`.
    fn add(&mut self, to: &mut Writer<'_>, name: &[u8], inode: u32, file_type: u8) -> Result<(), WriteError> {
        let length = entry_length(name);
        if self.next + length > END {
            self.next_block(to)?;
        }
        let entry = &mut self.block[self.next..self.next + length];
        entry.put32(0, inode);
        entry.put16(4, length as u16);
        entry[6] = name.len() as u8;
        entry[7] = file_type;
        entry.put(HEAD, name);
        (self.last, self.next) = (self.next, self.next + length);
        Ok(())
    }

    /// Writes the block; its last entry, or an empty one, reaches to its end.
    fn next_block(&mut self, to: &mut Writer<'_>) -> Result<(), WriteError> {
        self.block.put16(self.last + 4, (END - self.last) as u16);
        let checksum = to.checksums.of_inode(self.inode, &[&self.block[..END]]);
        let tail = &mut self.block[END..];
        tail.put16(4, TAIL as u16);
        tail[7] = 0xde;
        tail.put32(8, checksum);
        let at = to.allocator.take_one()?;
        to.write_block(at, &self.block[..])?;
        self.extents.push(self.done, at, 1);
        self.done += 1;
        self.block.fill(0);
        (self.last, self.next) = (0, 0);
        Ok(())
    }

    fn finish(mut self, to: &mut Writer<'_>, inode: &mut Inode) -> Result<(), WriteError> {
        self.next_block(to)?;
        (inode.place, inode.blocks) = to.write_extents(self.inode, &self.extents)?;
        inode.size = self.done * BLOCK;
        inode.flags = inode::EXTENTS;
        Ok(())
    }
}

fn entry_length(name: &[u8]) -> usize {
    (HEAD + name.len()).next_multiple_of(4)
}

fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 1,
        Kind::Directory(_) => 2,
        Kind::CharDevice { .. } => 3,
        Kind::BlockDevice { .. } => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink(_) => 7,
    }
}

/// See [`super::contents::most_blocks`].
pub(super) fn most_blocks(tree: &Tree, id: Id) -> u64 {
    let bytes: usize = tree.entries(id).map(|(name, _)| entry_length(name)).sum();
    // No entry leaves more than its own size free at a block's end.
    let blocks = bytes as u64 / (END as u64 - entry_length(&[0; 255]) as u64) + 2;
    blocks + blocks / 256 + 1
}
