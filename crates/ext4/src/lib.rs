//! Trees of files, and ext4 file systems made of them: without privilege, mounting or other programs.
//!
//! A [`Tree`] is filled by paths ([`Tree::insert`]) or from tar archives, one image layer after another
//! ([`Tree::add_tar`]). Names and metadata are in memory, the files' content is in one [`Spool`]. [`write()`] makes a
//! file system of it that Linux mounts, journals on, and grows while it is mounted.
//!
//! Archives are hostile: whatever they say stays inside the tree and within its [`Limits`].
#![forbid(unsafe_code)]

mod tar;
mod tree;
mod write;

pub use tree::{Content, Directory, Error, Kind, Limits, Metadata, Node, Spool, Timestamp, Tree};
pub use write::{Options, WriteError, Written, required_size, write};
