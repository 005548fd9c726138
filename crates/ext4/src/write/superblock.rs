//! The superblock (`struct ext4_super_block`) and its copies.

use super::bytes::Fields;
use super::checksum;
use super::geometry::{DESCRIPTOR, GROUP_BLOCKS, INODE_SIZE, has_superblock};
use super::groups::Groups;
use super::inode::{EXTRA, Inode};
use super::{BLOCK, FIRST_INODE, WriteError, Writer};
use std::os::unix::fs::FileExt;

const SIZE: usize = 1024;
/// Where on the disk it is.
const OFFSET: u64 = 1024;

/// has_journal, ext_attr, dir_index; and with room to grow resize_inode.
const COMPATIBLE: u32 = 0x4 | 0x8 | 0x20;
const RESIZE_INODE: u32 = 0x10;
/// filetype, extents, 64bit, flex_bg.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80 | 0x200;
/// sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;
/// user_xattr, acl.
const MOUNT_OPTIONS: u32 = 0x4 | 0x8;
/// Names are hashed with half MD4, as unsigned characters.
const HALF_MD4: u8 = 1;
const UNSIGNED_HASH: u32 = 2;

impl Writer<'_> {
    pub(super) fn write_superblocks(&self, groups: &Groups, journal: &Inode) -> Result<(), WriteError> {
        let mut bytes = self.superblock(groups, journal);
        for group in (0..self.geometry.groups).filter(|g| has_superblock(*g)) {
            // s_block_group_nr
            bytes[..].put16(0x5a, group as u16);
            let checksum = checksum::of_superblock(&bytes[..0x3fc]);
            bytes[..].put32(0x3fc, checksum);
            let at = match group {
                0 => OFFSET,
                _ => self.geometry.group_start(group) * BLOCK,
            };
            self.out.write_all_at(&bytes, at).map_err(WriteError::Output)?;
        }
        Ok(())
    }

    fn superblock(&self, groups: &Groups, journal: &Inode) -> [u8; SIZE] {
        let (geometry, options) = (self.geometry, self.options);
        let mut bytes = [0; SIZE];
        let fields = &mut bytes[..];
        fields.put32(0x00, geometry.inodes() as u32);
        fields.put_split(0x04, 0x150, geometry.blocks);
        let reserved = u128::from(geometry.blocks) * u128::from(options.reserved_percent) / 100;
        fields.put_split(0x08, 0x154, reserved as u64);
        fields.put_split(0x0c, 0x158, groups.free_blocks());
        fields.put32(0x10, (geometry.inodes() - groups.used_inodes()) as u32);
        // The size of blocks and clusters: 1024 << 2.
        fields.put32(0x18, 2);
        fields.put32(0x1c, 2);
        fields.put32(0x20, GROUP_BLOCKS as u32);
        fields.put32(0x24, GROUP_BLOCKS as u32);
        fields.put32(0x28, geometry.group_inodes as u32);
        // Written, checked, made.
        for at in [0x30, 0x40, 0x108] {
            fields.put32(at, options.timestamp);
        }
        // No check after a number of mounts.
        fields.put16(0x36, u16::MAX);
        fields.put16(0x38, 0xef53);
        // Clean; go on after errors; revision 1.
        fields.put16(0x3a, 1);
        fields.put16(0x3c, 1);
        fields.put32(0x4c, 1);
        fields.put32(0x54, FIRST_INODE);
        fields.put16(0x58, INODE_SIZE as u16);
        let resize = match geometry.reserved_descriptor_blocks {
            0 => 0,
            _ => RESIZE_INODE,
        };
        fields.put32(0x5c, COMPATIBLE | resize);
        fields.put32(0x60, INCOMPATIBLE);
        fields.put32(0x64, READ_ONLY_COMPATIBLE);
        fields.put(0x68, &options.uuid);
        fields.put(0x78, options.label.as_bytes());
        fields.put16(0xce, geometry.reserved_descriptor_blocks as u16);
        // s_journal_inum
        fields.put32(0xe0, 8);
        fields.put(0xec, &options.hash_seed);
        fields[0xfc] = HALF_MD4;
        // s_jnl_backup_type: i_block and the size of the journal's inode.
        fields[0xfd] = 1;
        fields.put(0x10c, &journal.place);
        fields.put_split(0x10c + 64, 0x10c + 60, journal.size);
        fields.put16(0xfe, DESCRIPTOR as u16);
        fields.put32(0x100, MOUNT_OPTIONS);
        fields.put16(0x15c, EXTRA);
        fields.put16(0x15e, EXTRA);
        fields.put32(0x160, UNSIGNED_HASH);
        fields[0x174] = geometry.log_flex as u8;
        // s_checksum_type: CRC32C.
        fields[0x175] = 1;
        bytes
    }
}
