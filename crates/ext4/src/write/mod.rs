//! ext4 file systems (Linux, Documentation/filesystems/ext4; the names are those of its structures).

mod allocator;
mod bytes;
mod checksum;
mod contents;
mod directory;
mod error;
mod extents;
mod geometry;
mod groups;
mod inode;
mod journal;
mod resize;
mod superblock;
#[cfg(test)]
mod tests;
pub(crate) mod xattr;

pub use error::WriteError;

use crate::tree::{Id, Kind, ROOT, Tree};
use allocator::Allocator;
use checksum::Checksums;
use geometry::Geometry;
use groups::Groups;
use inode::InodeTable;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of a block.
const BLOCK: u64 = 4096;
type Block = [u8; BLOCK as usize];

/// How a file system is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of the disk: 16 MiB to 64 TiB. Up to 8 MiB at its end may be left unused.
    pub size: u64,
    /// What it is called by.
    pub uuid: [u8; 16],
    /// At most 16 bytes.
    pub label: String,
    /// What names in directories are hashed with.
    pub hash_seed: [u8; 16],
    /// When it was made, seconds from 1970 on.
    pub timestamp: u32,
    /// Percent of the blocks that only root can use, at most 50.
    pub reserved_percent: u8,
}

impl Options {
    /// No label, nothing reserved, and nothing of chance: two file systems that one machine uses need different
    /// UUIDs.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            uuid: *b"donjon root disk",
            label: String::new(),
            hash_seed: *b"donjon hash seed",
            timestamp: 0,
            reserved_percent: 0,
        }
    }
}

/// What a new file system has in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of files, directories, the journal and the file system's own tables.
    pub used: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Files, directories and others.
    pub inodes: u32,
}

/// Makes `out`, an ordinary file that is open for writing, a disk with a file system of what is in `tree`. What it
/// had is lost. It is sparse: what nothing is written to stays a hole. The same tree and options give the same bytes.
///
/// Nothing is flushed: see [`File::sync_all`].
pub fn write(tree: &Tree, options: &Options, out: &File) -> Result<Written, WriteError> {
    let plan = Plan::new(tree)?;
    let geometry = Geometry::new(options, plan.inodes())?;
    options.check()?;
    out.set_len(0).map_err(WriteError::Output)?;
    out.set_len(options.size).map_err(WriteError::Output)?;
    let mut writer = Writer {
        tree,
        out,
        options,
        checksums: Checksums::new(&options.uuid),
        allocator: Allocator::new(&geometry),
        table: InodeTable::default(),
        directories: vec![0; geometry.groups as usize],
        geometry: &geometry,
    };
    writer.write_resize_inode()?;
    let journal = writer.write_journal()?;
    for (at, numbered) in plan.order.iter().enumerate() {
        writer.write_node(&plan, numbered)?;
        if at == 0 && !plan.has_lost_found {
            writer.write_lost_found()?;
        }
    }
    writer.finish(plan.inodes(), &journal)
}

impl Options {
    /// As [`Self::new`], with a UUID and a hash seed out of a digest of what the disk is made from: disks of different
    /// things differ, two of one are the same.
    pub fn of_digest(size: u64, digest: &[u8; 32]) -> Self {
        let (mut uuid, mut hash_seed) = ([0; 16], [0; 16]);
        uuid.copy_from_slice(&digest[..16]);
        hash_seed.copy_from_slice(&digest[16..]);
        // Version 8 (RFC 9562 §5.8): what is in it is the maker's choice.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Self {
            uuid,
            hash_seed,
            ..Self::new(size)
        }
    }

    fn check(&self) -> Result<(), WriteError> {
        match self.label.len() > 16 || self.label.contains('\0') || self.reserved_percent > 50 {
            true => Err(WriteError::Options),
            false => Ok(()),
        }
    }
}

/// A size of which it is certain that [`write()`] can put the tree there, and little more.
pub fn required_size(tree: &Tree) -> Result<u64, WriteError> {
    let plan = Plan::new(tree)?;
    let content: u64 = plan.order.iter().map(|n| contents::most_blocks(tree, n.id)).sum();
    let mut size = geometry::MIN_SIZE;
    loop {
        let needed = match Geometry::new(&Options::new(size), plan.inodes()) {
            Ok(geometry) => {
                let wanted = content + geometry.journal_blocks() + contents::SPARE;
                if geometry.data_blocks() >= wanted {
                    return Ok(size);
                }
                (wanted + geometry.blocks - geometry.data_blocks()) * BLOCK
            }
            // There are too few inodes.
            Err(_) => size + size / 8,
        };
        size = needed.max(size + 1).next_multiple_of(1 << 20);
        if size > geometry::MAX_SIZE {
            return Err(WriteError::TooLarge);
        }
    }
}

/// The first inode that is not the file system's own; it is lost+found's.
const FIRST_INODE: u32 = 11;
const ROOT_INODE: u32 = 2;

/// A node, its inode's number and that of the directory it is in.
struct Numbered {
    id: Id,
    inode: u32,
    parent: u32,
}

/// Which inode is whose.
struct Plan {
    /// In the order of inode numbers but for the root, which comes first.
    order: Vec<Numbered>,
    /// By [`Id`]; 0 for those that are gone.
    inodes: Vec<u32>,
    has_lost_found: bool,
}

impl Plan {
    fn new(tree: &Tree) -> Result<Self, WriteError> {
        let mut plan = Self {
            order: Vec::new(),
            inodes: vec![0; tree.ids()],
            has_lost_found: false,
        };
        plan.number(ROOT, ROOT_INODE, ROOT_INODE);
        let mut next = FIRST_INODE + 1;
        if let Some((_, id)) = tree.entries(ROOT).find(|(name, _)| *name == b"lost+found") {
            if !matches!(tree.node(id).kind(), Kind::Directory(_)) {
                return Err(WriteError::LostFound);
            }
            plan.has_lost_found = true;
            plan.number(id, FIRST_INODE, ROOT_INODE);
        }
        // A directory's entries get neighbouring inodes, then its first subdirectory's do.
        let mut ahead = vec![ROOT];
        while let Some(directory) = ahead.pop() {
            let parent = plan.inodes[directory];
            let first = ahead.len();
            for (_, id) in tree.entries(directory) {
                if plan.inodes[id] == 0 {
                    plan.number(id, next, parent);
                    next = next.checked_add(1).ok_or(WriteError::TooLarge)?;
                }
                if matches!(tree.node(id).kind(), Kind::Directory(_)) {
                    ahead.push(id);
                }
            }
            ahead[first..].reverse();
        }
        Ok(plan)
    }

    fn number(&mut self, id: Id, inode: u32, parent: u32) {
        self.inodes[id] = inode;
        self.order.push(Numbered { id, inode, parent });
    }

    /// How many inodes are in use, those of the file system's own included.
    fn inodes(&self) -> u32 {
        let others = self.order.len() as u32 - 1 - u32::from(self.has_lost_found);
        FIRST_INODE + others
    }
}

/// A file system being written.
struct Writer<'a> {
    tree: &'a Tree,
    out: &'a File,
    options: &'a Options,
    geometry: &'a Geometry,
    checksums: Checksums,
    allocator: Allocator<'a>,
    table: InodeTable,
    /// How many directories' inodes are in each group.
    directories: Vec<u32>,
}

impl Writer<'_> {
    fn write_block(&self, block: u64, bytes: &[u8]) -> Result<(), WriteError> {
        self.out
            .write_all_at(bytes, block * BLOCK)
            .map_err(WriteError::Output)
    }

    fn finish(mut self, inodes: u32, journal: &inode::Inode) -> Result<Written, WriteError> {
        self.flush_table()?;
        let mut groups = Groups::new(self.geometry, &self.allocator, inodes, &self.directories);
        for group in 0..self.geometry.groups {
            self.write_bitmaps(&mut groups, group)?;
        }
        self.write_descriptors(&groups)?;
        self.write_superblocks(&groups, journal)?;
        Ok(Written {
            used: (self.geometry.blocks - groups.free_blocks()) * BLOCK,
            free: groups.free_blocks() * BLOCK,
            inodes,
        })
    }
}
