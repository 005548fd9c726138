//! The command line of `donjon disk`.

use super::format;
use crate::cli::Format as Output;
use crate::size;
use clap::{Args, Subcommand, ValueEnum};
use donjon_block::{Format, manage};
use std::path::PathBuf;

/// What to do to an image.
#[derive(Subcommand)]
pub enum DiskCommand {
    /// Make an empty disk image.
    Create(CreateArgs),
    /// Make an image that starts as another one and keeps what is written from then on.
    ///
    /// The other one must not be written to any more. It may be a vmdk image, which is only read in any case.
    Overlay(OverlayArgs),
    /// Show an image's format, sizes, features and snapshots, and what lies below it.
    Info(InfoArgs),
    /// Change a disk's size.
    Resize(ResizeArgs),
    /// Copy an image, and those below it, into a new one. Zeroes take no room. SOURCE may be a vmdk image, too.
    Convert(ConvertArgs),
    /// Look for damage and leaked clusters. Exit code 1 if there is damage; leaks cost room and nothing else.
    Check(CheckArgs),
}

#[derive(Args)]
pub struct CreateArgs {
    /// The new image.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The disk's size: a number with K, M, G or T (powers of 1024), or of bytes.
    #[arg(value_name = "SIZE", value_parser = size::parse)]
    pub size: u64,

    /// The image's format: qcow2 or raw.
    #[arg(long, value_name = "FORMAT", default_value = "qcow2", value_parser = format)]
    pub format: Format,

    /// The unit of allocation, 512 to 2M.
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = size::parse)]
    pub cluster_size: u64,

    /// What room it takes at once.
    #[arg(long, value_name = "MODE", default_value = "off")]
    pub preallocation: Preallocation,

    /// Replace FILE if it exists.
    #[arg(long)]
    pub force: bool,
}

#[derive(Args)]
pub struct OverlayArgs {
    /// The image to start from.
    #[arg(value_name = "BACKING")]
    pub backing: PathBuf,

    /// The new image.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The disk's size [default: BACKING's].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub size: Option<u64>,

    /// BACKING's format: raw, qcow2 or vmdk [default: what its content looks like].
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub backing_format: Option<Format>,

    /// The unit of allocation, 512 to 2M.
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = size::parse)]
    pub cluster_size: u64,

    /// Replace FILE if it exists.
    #[arg(long)]
    pub force: bool,
}

#[derive(Args)]
pub struct InfoArgs {
    /// The image.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// As a table, or as JSON on one line.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Output,

    /// The image's format: raw, qcow2 or vmdk [default: what its content looks like].
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub image_format: Option<Format>,
}

#[derive(Args)]
pub struct ResizeArgs {
    /// The image.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The new size, such as 20G, or the difference, such as +5G.
    #[arg(value_name = "SIZE", value_parser = new_size, allow_hyphen_values = true)]
    pub size: Size,

    /// Allow a smaller size. What lies past it is lost: make the guest's file systems smaller first.
    #[arg(long)]
    pub shrink: bool,

    /// The image's format: raw or qcow2 [default: what its content looks like].
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub image_format: Option<Format>,
}

#[derive(Args)]
pub struct ConvertArgs {
    /// The image to copy.
    #[arg(value_name = "SOURCE")]
    pub source: PathBuf,

    /// The new image.
    #[arg(value_name = "TARGET")]
    pub target: PathBuf,

    /// The new image's format: qcow2 or raw.
    #[arg(long, value_name = "FORMAT", default_value = "qcow2", value_parser = format)]
    pub format: Format,

    /// SOURCE's format: raw, qcow2 or vmdk [default: what its content looks like].
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub source_format: Option<Format>,

    /// Compress, with zlib if nothing else is said. What is written to the image later is not.
    #[arg(long, value_name = "METHOD", num_args = 0..=1, require_equals = true, default_missing_value = "zlib")]
    pub compress: Option<Compression>,

    /// The unit of allocation, 512 to 2M.
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = size::parse)]
    pub cluster_size: u64,

    /// Replace TARGET if it exists.
    #[arg(long)]
    pub force: bool,
}

#[derive(Args)]
pub struct CheckArgs {
    /// The image.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Give leaked clusters back and make refcounts agree with the tables.
    #[arg(long)]
    pub repair: bool,

    /// As text, or as JSON on one line.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Output,

    /// The image's format: raw or qcow2 [default: what its content looks like].
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub image_format: Option<Format>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Preallocation {
    /// None: it grows as it is written to.
    Off,
    /// That of its tables.
    Metadata,
    /// All of it.
    Falloc,
}

impl From<Preallocation> for manage::Preallocation {
    fn from(mode: Preallocation) -> Self {
        match mode {
            Preallocation::Off => Self::Off,
            Preallocation::Metadata => Self::Metadata,
            Preallocation::Falloc => Self::Falloc,
        }
    }
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub enum Compression {
    /// What every version of QEMU reads.
    #[default]
    Zlib,
    /// Faster; QEMU 5.1 and later.
    Zstd,
}

impl From<Compression> for manage::Compression {
    fn from(method: Compression) -> Self {
        match method {
            Compression::Zlib => Self::Zlib,
            Compression::Zstd => Self::Zstd,
        }
    }
}

/// A new size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Absolute(u64),
    More(u64),
    Less(u64),
}

impl Size {
    /// What becomes of a disk that has `now`.
    pub fn applied(self, now: u64) -> Option<u64> {
        match self {
            Self::Absolute(size) => Some(size),
            Self::More(size) => now.checked_add(size),
            Self::Less(size) => now.checked_sub(size),
        }
    }
}

fn new_size(text: &str) -> Result<Size, String> {
    match text.split_at_checked(1) {
        Some(("+", more)) => size::parse(more).map(Size::More),
        Some(("-", less)) => size::parse(less).map(Size::Less),
        _ => size::parse(text).map(Size::Absolute),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_may_be_differences() {
        assert_eq!(new_size("20G"), Ok(Size::Absolute(20 << 30)));
        assert_eq!(new_size("+1K"), Ok(Size::More(1024)));
        assert_eq!(new_size("-1"), Ok(Size::Less(1)));
        for wrong in ["", "+", "+-1", "é", "ten"] {
            assert!(new_size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Size::Less(5).applied(4), None);
    }
}
