//! Checksums of metadata (metadata_csum): CRC32C without the inversion at the end.

/// What the checksums of one file system begin with.
pub(super) struct Checksums {
    seed: u32,
}

impl Checksums {
    pub(super) fn new(uuid: &[u8; 16]) -> Self {
        Self { seed: add(!0, uuid) }
    }

    /// Of something that belongs to no inode.
    pub(super) fn of(&self, parts: &[&[u8]]) -> u32 {
        parts.iter().fold(self.seed, |sum, part| add(sum, part))
    }

    /// Of something that belongs to an inode. Every inode's generation is 0.
    pub(super) fn of_inode(&self, inode: u32, parts: &[&[u8]]) -> u32 {
        let seed = self.of(&[&inode.to_le_bytes(), &[0; 4]]);
        parts.iter().fold(seed, |sum, part| add(sum, part))
    }
}

/// Of a superblock, which knows no seed.
pub(super) fn of_superblock(bytes: &[u8]) -> u32 {
    add(!0, bytes)
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!sum, bytes)
}
