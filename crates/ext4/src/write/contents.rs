//! What the nodes of a tree are in the file system.

use super::extents::Extents;
use super::inode::{self, Inode};
use super::xattr::{self, Encoded};
use super::{BLOCK, Numbered, Plan, WriteError, Writer, directory};
use crate::tree::{Content, Id, Kind, Tree};

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;
/// Runs of zeroes with fewer blocks get blocks all the same (though nothing is written into them), which bounds the
/// number of extents.
const SHORTEST_HOLE: u64 = 16;
/// Blocks of a file, at most: their numbers have 32 bits.
const MAX_FILE_BLOCKS: u64 = u32::MAX as u64;
/// Longest symbolic link that is kept in its inode.
const FAST_SYMLINK: usize = 59;
/// Blocks for what [`most_blocks`] does not count: lost+found, the resize inode, the journal's extents.
pub(super) const SPARE: u64 = 64;

impl Writer<'_> {
    pub(super) fn write_node(&mut self, plan: &Plan, numbered: &Numbered) -> Result<(), WriteError> {
        let tree = self.tree;
        let node = tree.node(numbered.id);
        let metadata = &node.metadata;
        let number = numbered.inode;
        let mut inode = Inode::new(metadata.mode & 0o7777, metadata.mtime);
        inode.uid = metadata.uid;
        inode.gid = metadata.gid;
        inode.links = tree.names(numbered.id) as u16;
        inode.mode |= match node.kind() {
            Kind::Directory(_) => {
                self.write_directory(plan, numbered, &mut inode)?;
                inode::DIRECTORY
            }
            Kind::File(content) => {
                self.write_file(number, content, &mut inode)?;
                inode::REGULAR
            }
            Kind::Symlink(target) => {
                self.write_symlink(number, target, &mut inode)?;
                inode::SYMLINK
            }
            Kind::CharDevice { major, minor } => {
                inode.place = inode::device(*major, *minor);
                inode::CHAR_DEVICE
            }
            Kind::BlockDevice { major, minor } => {
                inode.place = inode::device(*major, *minor);
                inode::BLOCK_DEVICE
            }
            Kind::Fifo => inode::FIFO,
            Kind::Socket => inode::SOCKET,
        };
        match xattr::encode(&metadata.xattrs) {
            Encoded::None => {}
            Encoded::InInode(bytes) => inode.xattrs = bytes,
            Encoded::Block(mut bytes) => {
                let block = self.allocator.take_one()?;
                xattr::seal(&mut bytes, block, &self.checksums);
                self.write_block(block, &bytes[..])?;
                inode.xattr_block = block;
                inode.blocks += 1;
            }
        }
        self.write_inode(number, &inode)
    }

    fn write_file(&mut self, number: u32, content: &Content, inode: &mut Inode) -> Result<(), WriteError> {
        let size = content.size();
        if size.div_ceil(BLOCK) > MAX_FILE_BLOCKS {
            return Err(WriteError::FileSize(size));
        }
        let mut extents = Extents::default();
        let mut buffer = vec![0; PIECE.min(size.next_multiple_of(BLOCK)) as usize];
        let mut done = 0;
        for segment in content.segments() {
            let mut at = done.max(segment.at / BLOCK * BLOCK);
            let end = segment.at + segment.len;
            while at < end {
                let len = PIECE
                    .min((size - at).next_multiple_of(BLOCK))
                    .min((end - at).next_multiple_of(BLOCK));
                let piece = &mut buffer[..len as usize];
                piece.fill(0);
                self.tree
                    .spool()
                    .read_at(content, at, piece)
                    .map_err(WriteError::Spool)?;
                self.write_piece(at / BLOCK, piece, &mut extents)?;
                at += len;
            }
            done = at;
        }
        (inode.place, inode.blocks) = self.write_extents(number, &extents)?;
        inode.size = size;
        inode.flags = inode::EXTENTS;
        Ok(())
    }

    /// Writes whole blocks of a file, from block `first` of it on.
    fn write_piece(&mut self, first: u64, piece: &[u8], extents: &mut Extents) -> Result<(), WriteError> {
        for (from, to) in runs(piece) {
            let mut from = from;
            while from < to {
                let (physical, count) = self.allocator.take(to - from)?;
                extents.push(first + from, physical, count);
                let bytes = &piece[(from * BLOCK) as usize..((from + count) * BLOCK) as usize];
                for (start, end) in data(bytes) {
                    let part = &bytes[(start * BLOCK) as usize..(end * BLOCK) as usize];
                    self.write_block(physical + start, part)?;
                }
                from += count;
            }
        }
        Ok(())
    }

    fn write_symlink(&mut self, number: u32, target: &[u8], inode: &mut Inode) -> Result<(), WriteError> {
        inode.size = target.len() as u64;
        if target.len() <= FAST_SYMLINK {
            inode.place[..target.len()].copy_from_slice(target);
            return Ok(());
        }
        let mut bytes = [0; BLOCK as usize];
        bytes[..target.len()].copy_from_slice(target);
        let block = self.allocator.take_one()?;
        self.write_block(block, &bytes)?;
        let mut extents = Extents::default();
        extents.push(0, block, 1);
        (inode.place, inode.blocks) = self.write_extents(number, &extents)?;
        inode.flags = inode::EXTENTS;
        Ok(())
    }
}

/// The parts of a piece that get blocks: everything but long runs of zeroes. In blocks, from and to.
fn runs(piece: &[u8]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (from, to) in data(piece) {
        match runs.last_mut() {
            Some(last) if from - last.1 < SHORTEST_HOLE => last.1 = to,
            _ => runs.push((from, to)),
        }
    }
    runs
}

/// The runs of blocks that are not all zeroes.
fn data(piece: &[u8]) -> Vec<(u64, u64)> {
    const ZEROES: [u8; BLOCK as usize] = [0; BLOCK as usize];
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (at, block) in (0..).zip(piece.chunks_exact(BLOCK as usize)) {
        if block == ZEROES {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.1 == at => last.1 += 1,
            _ => runs.push((at, at + 1)),
        }
    }
    runs
}

/// More blocks than a node takes never, and not many more.
pub(super) fn most_blocks(tree: &Tree, id: Id) -> u64 {
    let node = tree.node(id);
    let own = match node.kind() {
        Kind::File(content) => {
            let stored = content.segments().iter();
            let blocks: u64 = stored
                .map(|s| (s.at + s.len).div_ceil(BLOCK) - s.at / BLOCK)
                .sum();
            // Extents end at every hole that is found and at every group of blocks.
            let extents = blocks / SHORTEST_HOLE + content.segments().len() as u64;
            blocks + extents / 256 + 2
        }
        Kind::Directory(_) => directory::most_blocks(tree, id),
        Kind::Symlink(target) => u64::from(target.len() > FAST_SYMLINK),
        _ => 0,
    };
    own + u64::from(matches!(xattr::encode(&node.metadata.xattrs), Encoded::Block(_)))
}
