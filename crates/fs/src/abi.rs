//! Numbers of the FUSE protocol (Linux `include/uapi/linux/fuse.h`).

/// The major version, the same since 2006.
pub const MAJOR: u32 = 7;
/// The oldest minor version that guests may speak: Linux 5.4, the first with virtio-fs.
pub const OLDEST_MINOR: u32 = 31;
/// The newest that is spoken here.
pub const NEWEST_MINOR: u32 = 38;
/// The node of the shared directory itself.
pub const ROOT: u64 = 1;

/// Bytes of a request's header, `struct fuse_in_header`.
pub const IN_HEADER: usize = 40;
/// Bytes of an answer's header, `struct fuse_out_header`.
pub const OUT_HEADER: usize = 16;
/// Bytes of `struct fuse_write_in`, which the data follows.
pub const WRITE_IN: usize = 40;
/// Bytes of `struct fuse_entry_out`.
pub const ENTRY_OUT: usize = 128;
/// Bytes of `struct fuse_dirent` without its name.
pub const DIRENT: usize = 24;

/// The most bytes of one WRITE, and of one READ.
pub const MAX_WRITE: u32 = 1 << 20;
/// The same in pages.
pub const MAX_PAGES: u16 = (MAX_WRITE >> 12) as u16;

/// Operations.
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;

    /// Whether an operation changes something, whatever its arguments are.
    pub fn changes(op: u32) -> bool {
        matches!(
            op,
            SETATTR
                | SYMLINK
                | MKNOD
                | MKDIR
                | UNLINK
                | RMDIR
                | RENAME
                | RENAME2
                | LINK
                | WRITE
                | SETXATTR
                | REMOVEXATTR
                | CREATE
                | FALLOCATE
                | COPY_FILE_RANGE
        )
    }
}

/// What a session can do: flags of INIT.
pub mod init {
    pub const ASYNC_READ: u32 = 1 << 0;
    pub const ATOMIC_O_TRUNC: u32 = 1 << 3;
    pub const BIG_WRITES: u32 = 1 << 5;
    pub const AUTO_INVAL_DATA: u32 = 1 << 12;
    pub const DO_READDIRPLUS: u32 = 1 << 13;
    pub const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub const ASYNC_DIO: u32 = 1 << 15;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const MAX_PAGES: u32 = 1 << 22;
    pub const HANDLE_KILLPRIV_V2: u32 = 1 << 28;

    /// What is done here. Not among them: the write-back cache, which would hide the guest's changes from the host
    /// and the host's from the guest; locks, which the guest keeps for itself; ACLs.
    pub const OFFERED: u32 = ASYNC_READ
        | ATOMIC_O_TRUNC
        | BIG_WRITES
        | AUTO_INVAL_DATA
        | DO_READDIRPLUS
        | READDIRPLUS_AUTO
        | ASYNC_DIO
        | PARALLEL_DIROPS
        | MAX_PAGES
        | HANDLE_KILLPRIV_V2;
}

/// `getattr_flags`: the handle counts.
pub const GETATTR_FH: u32 = 1;
/// `open_flags` of OPEN and CREATE: a file that is cut off loses its set-user-ID and set-group-ID bits.
pub const OPEN_KILL_SUIDGID: u32 = 1;
/// `open_flags` of the answer: what the guest keeps of the content is right.
pub const KEEP_CACHE: u32 = 1 << 1;
/// `write_flags`: so does one that is written to.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `fsync_flags`: only the data.
pub const FSYNC_FDATASYNC: u32 = 1;

/// `valid` of SETATTR.
pub mod fattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}
