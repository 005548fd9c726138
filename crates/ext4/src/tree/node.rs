//! What names stand for.

use super::{Content, Metadata};
use std::collections::BTreeMap;

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A directory.
    Directory(Directory),
    /// A regular file.
    File(Content),
    /// A symbolic link and where it leads.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

impl Kind {
    /// A directory without entries.
    pub fn directory() -> Self {
        Self::Directory(Directory::default())
    }

    /// Bytes it takes in memory beside its node.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Symlink(target) => target.len(),
            Self::File(content) => content.weight(),
            _ => 0,
        }
    }
}

/// The names in a directory, in the order of their bytes.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub(super) entries: BTreeMap<Box<[u8]>, Entry>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) node: Id,
    /// The layer that named it last.
    pub(super) layer: u32,
}

/// A node's place in the tree's `nodes`.
pub(crate) type Id = usize;

/// The root directory.
pub(crate) const ROOT: Id = 0;

/// A file, directory or other, whatever its names are.
#[derive(Debug)]
pub struct Node {
    /// Owner, mode, time and extended attributes.
    pub metadata: Metadata,
    pub(super) kind: Kind,
    /// How many names it has; the root has one.
    pub(super) names: u32,
}

impl Node {
    /// What it is.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }
}
