//! Why an image cannot be had.

use crate::Digest;
use std::io;
use std::path::{Path, PathBuf};

/// Why an image cannot be pulled or made into a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not an image's name.
    #[error(
        "{text:?} is not an image's name: {what}; write it like debian:12, ghcr.io/owner/name:tag or name@sha256:…"
    )]
    Reference {
        /// What was given.
        text: String,
        /// What is wrong.
        what: String,
    },
    /// The registry cannot be reached, or broke off again and again.
    #[error("cannot reach the registry {registry}: {what}; try `curl -v {url}`")]
    Unreachable {
        /// The registry.
        registry: String,
        /// What was asked for.
        url: String,
        /// What went wrong.
        what: String,
    },
    /// The registry wants credentials, or others.
    #[error(
        "the registry {registry} does not let {who} read {repository} ({what}); log in: `docker login {registry}`, or \
         check the name"
    )]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// Whose credentials were used.
        who: String,
        /// What the registry said.
        what: String,
    },
    /// There is no such image.
    #[error("{0} does not exist; see which tags there are, for example with `skopeo list-tags docker://{1}`")]
    NoImage(String, String),
    /// The registry lacks a part of the image.
    #[error(
        "the registry {registry} does not have {digest}, which the image needs; the image is incomplete there"
    )]
    NoBlob {
        /// The registry.
        registry: String,
        /// What is missing.
        digest: Digest,
    },
    /// The registry answered something else.
    #[error("the registry {registry} answered {status} to {url}: {what}")]
    Status {
        /// The registry.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        url: String,
        /// What the registry said.
        what: String,
    },
    /// What was sent is not what was asked for.
    #[error(
        "{registry} sent something else than {digest}: {what}; nothing of it was kept. Try again, or tell its owner"
    )]
    Tampered {
        /// The registry.
        registry: String,
        /// What was asked for.
        digest: Digest,
        /// How that shows.
        what: String,
    },
    /// A manifest, index or configuration that is none.
    #[error("the image's {what} is not valid: {why}")]
    Document {
        /// Which of them.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// No variant of the image runs here.
    #[error("the image is not for linux/amd64; it is for {}", .0.join(", "))]
    Platform(Vec<String>),
    /// A limit that the image is beyond.
    #[error("the image has {what}: more than the limit of {limit}")]
    Limit {
        /// What it has too much of.
        what: String,
        /// What it may have.
        limit: u64,
    },
    /// A layer that cannot be applied.
    #[error("layer {index} of the image ({digest}) cannot be unpacked: {what}")]
    Layer {
        /// The layer, from 1 on.
        index: usize,
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        what: String,
    },
    /// Something in the store changed since it was fetched.
    #[error("{digest} was damaged in the store and has been removed; pull the image again")]
    Damaged {
        /// What was damaged.
        digest: Digest,
    },
    /// Something is not in the store.
    #[error("{digest} is not in the store; pull the image again")]
    Missing {
        /// What is missing.
        digest: Digest,
    },
    /// The file system that the store or the disk is on is full.
    #[error(
        "no space left for {path}; nothing half done was kept. Free some (`df -h {dir}`) and try again",
        path = path.display(), dir = path.parent().unwrap_or(path).display()
    )]
    Full {
        /// What did not fit.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk cannot be made.
    #[error("cannot make the disk: {0}")]
    Disk(#[from] donjon_ext4::WriteError),
    /// Credentials cannot be read.
    #[error("cannot use the credentials in {path}: {what}; log in again with `docker login`", path = path.display())]
    Credentials {
        /// Where they are.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The callback said so.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// The error of a failed file operation; a full disk gets its own kind.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match is_full(&source) {
            true => Self::Full { path },
            false => Self::Io { what, path, source },
        }
    }
}

/// Whether there is no room: on the file system, for this user, or for a file of that size.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// What others wrote, for people: one line, no control characters, not too long.
pub(crate) fn quote(text: &str) -> String {
    const LONGEST: usize = 300;
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(LONGEST).collect::<String>().trim().to_owned()
}
