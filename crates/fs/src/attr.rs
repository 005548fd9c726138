//! Attributes of files as FUSE has them.

use crate::abi::ENTRY_OUT;
use crate::owner::Ids;
use crate::wire::Output;
use rustix::fs::{Statx, StatxTimestamp, makedev};

/// For how long a guest may believe attributes and names, in seconds: so old is what it sees of changes by the host.
const VALID: u64 = 1;

/// Attributes of a file, with the owner that the guest sees.
pub struct Attr {
    pub ino: u64,
    pub stat: Statx,
    pub owner: Ids,
}

impl Attr {
    /// `struct fuse_attr`.
    fn put(&self, out: &mut Output) {
        let s = &self.stat;
        let seconds = |t: &StatxTimestamp| t.tv_sec as u64;
        // The kernel's own encoding (`new_encode_dev`) is that of the low 32 bits of makedev(3).
        let rdev = makedev(s.stx_rdev_major, s.stx_rdev_minor) as u32;
        out.u64(self.ino).u64(s.stx_size).u64(s.stx_blocks);
        for time in [&s.stx_atime, &s.stx_mtime, &s.stx_ctime] {
            out.u64(seconds(time));
        }
        for time in [&s.stx_atime, &s.stx_mtime, &s.stx_ctime] {
            out.u32(time.tv_nsec);
        }
        out.u32(s.stx_mode.into()).u32(s.stx_nlink);
        out.u32(self.owner.uid).u32(self.owner.gid).u32(rdev);
        out.u32(s.stx_blksize).u32(0);
    }

    /// `struct fuse_attr_out`.
    pub fn attr_out(&self) -> Output {
        let mut out = Output::default();
        out.u64(VALID).u32(0).u32(0);
        self.put(&mut out);
        out
    }

    /// `struct fuse_entry_out`.
    pub fn entry_out(&self, node: u64, out: &mut Output) {
        let before = out.0.len();
        out.u64(node).u64(0).u64(VALID).u64(VALID).u32(0).u32(0);
        self.put(out);
        debug_assert_eq!(out.0.len() - before, ENTRY_OUT);
    }
}
