//! Inodes (`struct ext4_inode`) and the tables they are in.

use super::bytes::Fields;
use super::geometry::{BLOCK_INODES, INODE_SIZE};
use super::{BLOCK, WriteError, Writer};
use crate::Timestamp;
use std::os::unix::fs::FileExt;

pub(super) const DIRECTORY: u16 = 0o040_000;
pub(super) const REGULAR: u16 = 0o100_000;
pub(super) const SYMLINK: u16 = 0o120_000;
pub(super) const CHAR_DEVICE: u16 = 0o020_000;
pub(super) const BLOCK_DEVICE: u16 = 0o060_000;
pub(super) const FIFO: u16 = 0o010_000;
pub(super) const SOCKET: u16 = 0o140_000;

/// The content is found by extents.
pub(super) const EXTENTS: u32 = 0x8_0000;

/// Bytes of the inode's fields behind the first 128.
pub(super) const EXTRA: u16 = 32;
const FIRST_PART: usize = 128;
/// Where in the inode its extended attributes are.
pub(super) const XATTRS: usize = FIRST_PART + EXTRA as usize;

pub(super) struct Inode {
    /// Type and permissions.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u16,
    pub(super) size: u64,
    /// Blocks of the content, of its extents' tree and of extended attributes.
    pub(super) blocks: u64,
    pub(super) flags: u32,
    pub(super) mtime: Timestamp,
    /// i_block: extents, block numbers, a symbolic link's target or a device's number.
    pub(super) place: [u8; 60],
    /// The block of extended attributes; 0 is none.
    pub(super) xattr_block: u64,
    /// Those in the inode itself.
    pub(super) xattrs: Vec<u8>,
}

impl Inode {
    pub(super) fn new(mode: u16, mtime: Timestamp) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
            links: 1,
            size: 0,
            blocks: 0,
            flags: 0,
            mtime,
            place: [0; 60],
            xattr_block: 0,
            xattrs: Vec::new(),
        }
    }

    fn encode(&self) -> [u8; INODE_SIZE as usize] {
        let mut bytes = [0; INODE_SIZE as usize];
        let fields = &mut bytes[..];
        let (seconds, extra) = time(self.mtime);
        fields.put16(0x00, self.mode);
        fields.put16(0x02, self.uid as u16);
        fields.put_split(0x04, 0x6c, self.size);
        // Accessed, changed, modified.
        for at in [0x08, 0x0c, 0x10] {
            fields.put32(at, seconds);
        }
        fields.put16(0x18, self.gid as u16);
        fields.put16(0x1a, self.links);
        let sectors = self.blocks * (BLOCK / 512);
        fields.put32(0x1c, sectors as u32);
        fields.put16(0x74, (sectors >> 32) as u16);
        fields.put32(0x20, self.flags);
        fields.put(0x28, &self.place);
        fields.put32(0x68, self.xattr_block as u32);
        fields.put16(0x76, (self.xattr_block >> 32) as u16);
        fields.put16(0x78, (self.uid >> 16) as u16);
        fields.put16(0x7a, (self.gid >> 16) as u16);
        fields.put16(0x80, EXTRA);
        for at in [0x84, 0x88, 0x8c] {
            fields.put32(at, extra);
        }
        fields.put32(0x90, seconds);
        fields.put32(0x94, extra);
        fields.put(XATTRS, &self.xattrs);
        bytes
    }
}

/// Seconds with their sign, and two more bits of them below the nanoseconds: from 1901 to 2446. Others become the
/// nearest of those.
fn time(time: Timestamp) -> (u32, u32) {
    const FIRST: i64 = i32::MIN as i64;
    const LAST: i64 = FIRST + (1 << 34) - 1;
    let seconds = time.seconds.clamp(FIRST, LAST);
    let epoch = (seconds - FIRST) >> 32;
    (
        seconds as u32,
        time.nanoseconds.min(999_999_999) << 2 | epoch as u32,
    )
}

/// i_block of a device: its number as Linux has it, in the old form if that holds it.
pub(super) fn device(major: u32, minor: u32) -> [u8; 60] {
    let mut place = [0; 60];
    match major < 256 && minor < 256 {
        true => place[..].put32(0, major << 8 | minor),
        false => place[..].put32(4, minor & 0xff | major << 8 | (minor & !0xff) << 12),
    }
    place
}

/// The block of the inode tables that is being filled.
#[derive(Default)]
pub(super) struct InodeTable {
    block: u64,
    bytes: Vec<u8>,
}

impl Writer<'_> {
    /// Writes an inode; best in the order of their numbers.
    pub(super) fn write_inode(&mut self, number: u32, inode: &Inode) -> Result<(), WriteError> {
        let mut bytes = inode.encode();
        let checksum = self.checksums.of_inode(number, &[&bytes]);
        bytes[..].put16(0x7c, checksum as u16);
        bytes[..].put16(0x82, (checksum >> 16) as u16);
        if inode.mode & 0o170_000 == DIRECTORY {
            let group = (u64::from(number) - 1) / self.geometry.group_inodes;
            self.directories[group as usize] += 1;
        }
        let offset = self.geometry.inode_offset(number);
        let (block, within) = (offset / BLOCK, (offset % BLOCK) as usize);
        if block != self.table.block {
            self.flush_table()?;
            self.table.block = block;
            self.table.bytes.resize(BLOCK as usize, 0);
            // Some of it may have been written before, out of order.
            let read = self.out.read_exact_at(&mut self.table.bytes, block * BLOCK);
            read.map_err(WriteError::Output)?;
        }
        self.table.bytes[within..within + bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }

    pub(super) fn flush_table(&mut self) -> Result<(), WriteError> {
        debug_assert!(self.table.bytes.len() as u64 <= BLOCK_INODES * INODE_SIZE);
        match self.table.bytes.is_empty() {
            true => Ok(()),
            false => self.write_block(self.table.block, &self.table.bytes),
        }
    }
}
