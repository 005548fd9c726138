//! Files and directories as tar streams, by the rules of `docker cp`.
//!
//! The sender calls [`send()`], the receiver [`target()`] and then [`receive()`], which trusts nothing: it works beneath
//! one directory, and what would lead out of it (absolute names, `..`, symbolic links that came before) is an error.
//! Regular files, directories, symbolic and hard links are copied; devices, sockets and FIFOs are left out and
//! counted.

mod beneath;
mod draft;
mod entries;
mod receive;
mod send;
mod stream;
mod target;
#[cfg(test)]
mod tests;

pub use receive::receive;
pub use send::{kind, send};
pub use stream::{Incoming, Outgoing};
pub use target::{Target, target};

use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory with everything in it.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// What is copied, as its receiver has to know it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Source {
    /// What it is.
    pub kind: Kind,
    /// The name that it gets in a directory; empty if it has none, as `/` and `..`.
    pub name: String,
    /// What is in the directory is copied, not the directory: its path ended in `/.`, or it has no name.
    pub contents: bool,
}

impl Source {
    /// The source that a user named with this path.
    pub fn named(path: &Path, kind: Kind) -> Self {
        let bytes = path.as_os_str().as_bytes();
        let dot = bytes == b"." || bytes.ends_with(b"/.");
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        Self {
            kind,
            name: name.into(),
            contents: dot || name.is_empty(),
        }
    }
}

/// How it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Options {
    /// Owners and the set-user-ID, set-group-ID and sticky bits are kept. Otherwise everything belongs to the
    /// receiver.
    pub preserve: bool,
}

/// What was copied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Regular files, and hard links to them.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes in the files.
    pub bytes: u64,
    /// What could not be copied because of what it is, or was gone when its turn came.
    pub skipped: u64,
    /// The first of these.
    pub examples: Vec<String>,
}

impl Report {
    /// How many examples are kept.
    const EXAMPLES: usize = 8;
    /// Bytes of each.
    const LONGEST: usize = 1024;

    fn skip(&mut self, path: &Path) {
        self.skipped = self.skipped.saturating_add(1);
        if self.examples.len() < Self::EXAMPLES {
            let mut example = path.display().to_string();
            example.truncate(example.floor_char_boundary(Self::LONGEST));
            self.examples.push(example);
        }
    }

    /// Adds what the other side left out.
    pub fn add_skipped(&mut self, other: &Self) {
        self.skipped = self.skipped.saturating_add(other.skipped);
        let room = Self::EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.iter().take(room).cloned());
    }
}

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The system refused.
    #[error("cannot {what} {path:?}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection failed, or what came is no tar archive.
    #[error("the copy was broken off: {0}")]
    Stream(io::Error),
    /// The stream names something outside of what it may write.
    #[error("the archive has {0:?} in it, which lies outside the target; nothing was written there")]
    Outside(PathBuf),
    /// What was to be one file is something else.
    #[error("the archive has {0:?} in it, where one file was to be copied")]
    NotOneFile(PathBuf),
    /// What this receiver does not understand.
    #[error("the archive has {0:?} in it, {1}")]
    Unsupported(PathBuf, &'static str),
    /// A directory cannot replace it.
    #[error("{0:?} is not a directory; a directory can only be copied to one, or to a new name")]
    NotDirectory(PathBuf),
    /// It ends in a slash.
    #[error("there is no directory {0:?}; make it first, or leave out the slash at the end")]
    NoDirectory(PathBuf),
    /// It has no name to be used there.
    #[error("{0:?} is no name for a file; name the target itself")]
    Name(String),
}

impl CopyError {
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}
