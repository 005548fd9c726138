//! Why something cannot be in a tree.

use crate::tar::Malformed;
use std::io;

/// Why something cannot be added to a tree, or not be found in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A path with more `..` than directories before them.
    #[error("the path {} climbs out of the root directory", show(.0))]
    Climbs(Box<[u8]>),
    /// A path or one of its names is longer than Linux allows, or has a zero byte.
    #[error("the path {} is no valid path: paths have at most 4096 bytes, names 255, none of them zero", show(.0))]
    Path(Box<[u8]>),
    /// Symbolic links that lead in circles, or too far.
    #[error("the path {} leads through too many symbolic links", show(.0))]
    Loop(Box<[u8]>),
    /// Something below what is not a directory.
    #[error("the path {} leads through something that is not a directory", show(.0))]
    NotADirectory(Box<[u8]>),
    /// A symbolic link to nothing, or to more than 4095 bytes.
    #[error("the symbolic link {} has no valid target: 1 to 4095 bytes, none of them zero", show(.path))]
    Target {
        /// The link.
        path: Box<[u8]>,
    },
    /// A hard link to something that cannot have another name.
    #[error(
        "{} cannot be a hard link to {}: that is not there, is a directory or has too many names",
        show(.path), show(.target)
    )]
    LinkTarget {
        /// The new name.
        path: Box<[u8]>,
        /// The old one.
        target: Box<[u8]>,
    },
    /// The root is to become something else.
    #[error("the root can only be a directory")]
    Root,
    /// Extended attributes that ext4 cannot hold.
    #[error("the extended attributes of {} cannot be kept: {what}", show(.path))]
    Xattrs {
        /// Whose.
        path: Box<[u8]>,
        /// Why.
        what: &'static str,
    },
    /// A whiteout of nothing.
    #[error("the whiteout {} names no file", show(.0))]
    Whiteout(Box<[u8]>),
    /// [`Limits::content`](crate::Limits::content).
    #[error("the files have more than {0} bytes; that is the limit")]
    Content(u64),
    /// [`Limits::entries`](crate::Limits::entries).
    #[error("there are more than {0} files, or as much metadata; that is the limit")]
    Entries(u64),
    /// An archive that contradicts its format.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The archive or content cannot be read.
    #[error("cannot read the files: {0}")]
    Read(#[source] io::Error),
    /// The spool cannot be written or read.
    #[error("cannot keep the files' content in the spool: {0}")]
    Spool(#[source] io::Error),
}

/// A path for people: control characters escaped, long ones cut.
fn show(path: &[u8]) -> String {
    const LONGEST: usize = 200;
    match path.len() > LONGEST {
        true => format!("\"{}…\"", path[..LONGEST].escape_ascii()),
        false => format!("\"{}\"", path.escape_ascii()),
    }
}
