//! Why an image cannot be used.

use crate::Format;
use crate::holder::Holder;
use std::io;
use std::path::{Path, PathBuf};

/// An image contradicts itself or its format.
///
/// Transfers return it inside an [`io::Error`] of kind [`io::ErrorKind::InvalidData`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("{file} is damaged: {what} (at offset {offset:#x}); {hint}", file = .file.display(), hint = damage_hint(*.format, .file))]
pub struct Corrupt {
    /// The image's file.
    pub file: PathBuf,
    /// What is wrong.
    pub what: String,
    /// Where in the file, or of which entry.
    pub offset: u64,
    /// Its format.
    pub format: Format,
}

impl Corrupt {
    pub(crate) fn new(file: &Path, what: impl Into<String>, offset: u64) -> Self {
        Self {
            file: file.to_owned(),
            what: what.into(),
            offset,
            format: Format::Qcow2,
        }
    }

    pub(crate) fn vmdk(file: &Path, what: impl Into<String>, offset: u64) -> Self {
        Self {
            format: Format::Vmdk,
            ..Self::new(file, what, offset)
        }
    }
}

impl From<Corrupt> for io::Error {
    fn from(corrupt: Corrupt) -> Self {
        Self::new(io::ErrorKind::InvalidData, corrupt)
    }
}

/// Why an image cannot be opened, or not be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such file.
    #[error("{file} does not exist; make it: donjon disk create {file} 10G", file = .0.display())]
    Missing(PathBuf),
    /// It is a directory, a pipe…
    #[error("{file} is {what}, not a disk image; name a file or a block device", file = .file.display())]
    NotAFile {
        /// The file.
        file: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It may not be read or written.
    #[error("{file} may not be {verb} by this user; see `ls -l {file}`{}", readonly_hint(.verb), file = .file.display())]
    Permission {
        /// The file.
        file: PathBuf,
        /// `read` or `written`.
        verb: &'static str,
    },
    /// A file operation failed.
    #[error("cannot {what} {file}: {source}", file = .file.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not of the format that was named.
    #[error("{file} is not a {expected} image: its content is {found}; {}", format_hint(.found), file = .file.display())]
    WrongFormat {
        /// The file.
        file: PathBuf,
        /// What was asked for.
        expected: Format,
        /// What it looks like.
        found: &'static str,
    },
    /// A format or feature that donjon does not have.
    #[error("{file}: {what} is not supported; convert it: qemu-img convert -O qcow2 {file} NEW.qcow2", file = .file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// What it needs.
        what: String,
    },
    /// A format that is only read.
    #[error(
        "{file} is a {format} image, and those are only read; use it read-only, or make a writable one of it: \
         donjon disk convert {file} NEW.qcow2, or on top of it: donjon disk overlay {file} NEW.qcow2",
        file = .file.display()
    )]
    OnlyRead {
        /// The file.
        file: PathBuf,
        /// What it is.
        format: Format,
    },
    /// A vmdk image names an extent in another directory.
    #[error("{file} names the extent {extent:?}, which is not beside it; put the two into one directory, and no directory into the name", file = .file.display())]
    ExtentElsewhere {
        /// The file with the descriptor.
        file: PathBuf,
        /// The name.
        extent: String,
    },
    /// An extent of a vmdk image does not exist.
    #[error("{file} has an extent {extent}, which does not exist; copy it from where {file} came from", file = .file.display(), extent = .extent.display())]
    ExtentMissing {
        /// The file with the descriptor.
        file: PathBuf,
        /// The extent.
        extent: PathBuf,
    },
    /// One extent of a vmdk image of several.
    #[error("{file} is only an extent of a disk; name the vmdk file beside it that lists its extents", file = .0.display())]
    NoDescriptor(PathBuf),
    /// It contradicts its format.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// Somebody found it damaged before.
    #[error("{file} was marked as damaged and is not written to; repair it: donjon disk check --repair {file}", file = .0.display())]
    MarkedCorrupt(PathBuf),
    /// Somebody else uses it.
    #[error("{file} is in use by {}; stop that first{}", who(.holder), holder_hint(.holder, .file), file = .file.display())]
    Busy {
        /// The file.
        file: PathBuf,
        /// Who has it, if that can be told.
        holder: Option<Holder>,
    },
    /// The backing file of an overlay cannot be used.
    #[error("{overlay}: its backing file {backing} cannot be used: {source}", overlay = .overlay.display(), backing = .backing.display())]
    Backing {
        /// The overlay.
        overlay: PathBuf,
        /// The backing file.
        backing: PathBuf,
        /// Why.
        source: Box<OpenError>,
    },
    /// The backing files lead in a circle.
    #[error(
        "it is already part of this chain, which would never end; the overlay's header is wrong, recreate the overlay"
    )]
    Loop,
    /// More backing files than anybody has use for.
    #[error(
        "more than {0} backing files lie on top of each other; make one of them: donjon disk convert OVERLAY NEW.qcow2"
    )]
    Depth(usize),
    /// A new file would overwrite another.
    #[error("{file} exists already; choose another name, or replace it with --force", file = .0.display())]
    Exists(PathBuf),
    /// An argument does not fit the format.
    #[error("{0}")]
    Argument(String),
}

impl OpenError {
    pub(crate) fn only_read(file: &Path, format: Format) -> Self {
        Self::OnlyRead {
            file: file.to_owned(),
            format,
        }
    }

    pub(crate) fn io(what: &'static str, file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| match source.downcast::<Corrupt>() {
            Ok(corrupt) => Self::Corrupt(corrupt),
            Err(source) => Self::Io { what, file, source },
        }
    }
}

fn damage_hint(format: Format, file: &Path) -> String {
    match format {
        Format::Vmdk => "copy it anew from where it came from".into(),
        _ => format!("look at it with: donjon disk check {}", file.display()),
    }
}

fn readonly_hint(verb: &str) -> &'static str {
    match verb {
        "written" => ", or use it read-only",
        _ => "",
    }
}

fn format_hint(found: &str) -> &'static str {
    match found {
        "qcow2" | "vmdk" => "name that format instead, or none",
        _ => "name the right format, or none",
    }
}

fn who(holder: &Option<Holder>) -> String {
    match holder {
        Some(holder) => holder.to_string(),
        None => "another process".into(),
    }
}

fn holder_hint(holder: &Option<Holder>, file: &Path) -> String {
    match holder {
        Some(_) => String::new(),
        None => format!("; to see which: sudo lsof {}", file.display()),
    }
}
