//! Owner, mode, time and extended attributes.

use super::Error;
use crate::write::xattr;
use std::collections::BTreeMap;

/// A time, from 1970 on (POSIX).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds; before 1970 negative.
    pub seconds: i64,
    /// Nanoseconds after that second.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// A whole second.
    pub fn seconds(seconds: i64) -> Self {
        Self {
            seconds,
            nanoseconds: 0,
        }
    }
}

/// What an inode says beside what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permissions, set-user-ID, set-group-ID and sticky bit; other bits do not count.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When the content changed last.
    pub mtime: Timestamp,
    /// Extended attributes by their full name (xattr(7)), for example `security.capability`. Those whose namespace
    /// ext4 does not have are left out of the file system.
    pub xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Metadata {
    /// Root's, from 1970.
    pub fn new(mode: u16) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }

    pub(super) fn check(&self, path: &[u8]) -> Result<(), Error> {
        xattr::check(&self.xattrs).map_err(|what| Error::Xattrs {
            path: path.into(),
            what,
        })
    }

    pub(super) fn weight(&self) -> usize {
        self.xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len() + 64)
            .sum()
    }
}
