//! Why a file system cannot be made.

use std::io;

/// Why a file system cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The size is not one that this makes.
    #[error("a disk of {0} bytes cannot be made: choose a size from 16 MiB to 64 TiB")]
    Size(u64),
    /// The tree needs more room.
    #[error("the files do not fit on a disk of {} MiB; make it larger", .size >> 20)]
    Full {
        /// The disk's size in bytes.
        size: u64,
    },
    /// The tree has more than any disk of this kind holds.
    #[error("the files do not fit on any disk of up to 64 TiB")]
    TooLarge,
    /// A file of 16 TiB or more.
    #[error("a file of {0} bytes is larger than ext4 files can be: 16 TiB")]
    FileSize(u64),
    /// The label or the reserved part.
    #[error("a label has at most 16 bytes, and at most 50 percent can be reserved")]
    Options,
    /// The place that e2fsck needs is taken.
    #[error("/lost+found is not a directory, as ext4 needs it to be")]
    LostFound,
    /// The files' content cannot be read.
    #[error("cannot read the files' content from the spool: {0}")]
    Spool(#[source] io::Error),
    /// The disk cannot be written.
    #[error("cannot write the disk: {0}")]
    Output(#[source] io::Error),
}
