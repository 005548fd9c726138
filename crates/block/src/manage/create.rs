//! New images.

use super::Compression;
use super::new_file::NewFile;
use crate::chain::{DEPTH, Options, beside, open, read_header};
use crate::error::OpenError;
use crate::image::{Format, whole_sectors};
use crate::qcow2::{self, NewImage, Qcow2};
use crate::store::Store;
use std::path::Path;

/// What room a new image takes at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// None.
    #[default]
    Off,
    /// That of its tables.
    Metadata,
    /// All: the file system keeps it free.
    Falloc,
}

/// How to make an image.
#[derive(Clone, Debug)]
pub struct Creation {
    /// Its format.
    pub format: Format,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// 3, or 2 for QEMU before 1.1.
    pub version: u32,
    /// Bits of a refcount: 1, 2, 4 … 64.
    pub refcount_bits: u32,
    /// How clusters will be compressed.
    pub compression: Compression,
    /// What room it takes at once.
    pub preallocation: Preallocation,
    /// May replace a file.
    pub force: bool,
}

impl Default for Creation {
    fn default() -> Self {
        Self {
            format: Format::Qcow2,
            cluster_size: 64 << 10,
            version: 3,
            refcount_bits: 16,
            compression: Compression::Zlib,
            preallocation: Preallocation::Off,
            force: false,
        }
    }
}

impl Creation {
    fn layout(&self, size: u64, backing: Option<(String, &'static str)>) -> NewImage {
        NewImage {
            size,
            version: self.version,
            cluster_size: self.cluster_size,
            refcount_bits: self.refcount_bits,
            compression: self.compression,
            backing,
        }
    }
}

/// Makes an image of `size` bytes, a multiple of 512, which reads as zeroes.
pub fn create(path: &Path, size: u64, how: &Creation) -> Result<(), OpenError> {
    let new = NewFile::begin(path, how.force)?;
    fill(&new, path, size, how)?;
    new.finish()
}

/// Writes an empty image into a new file.
pub(super) fn fill(new: &NewFile, path: &Path, size: u64, how: &Creation) -> Result<(), OpenError> {
    if how.format == Format::Vmdk {
        return Err(OpenError::Argument(
            "vmdk images are only read; make a qcow2 image: --format qcow2".into(),
        ));
    }
    whole_sectors(size)?;
    let store = new.file().and_then(|file| Store::new(file, path));
    let store = store.map_err(OpenError::io("create", path))?;
    if how.format == Format::Raw {
        let made = store.set_len(size).and_then(|()| match how.preallocation {
            Preallocation::Falloc => store.reserve(0, size),
            _ => Ok(()),
        });
        return made.map_err(OpenError::io("create", path));
    }
    qcow2::create(&store, &how.layout(size, None))?;
    if how.preallocation == Preallocation::Off {
        return Ok(());
    }
    let header = read_header(&store)?;
    let image = Qcow2::open(store, None, header, None, false)?;
    let done = image.preallocate(how.preallocation == Preallocation::Falloc);
    done.and_then(|()| image.close())
        .map_err(OpenError::io("create", path))
}

/// Makes an image that has what `backing` has until it is written to, which `backing` then must not be any more.
/// `backing` is stored as it is, relative to the new image's directory unless it is absolute.
pub fn overlay(
    path: &Path,
    backing: &str,
    backing_format: Option<Format>,
    size: Option<u64>,
    how: &Creation,
) -> Result<(), OpenError> {
    let below = open(
        beside(path, backing),
        &Options {
            format: backing_format,
            read_only: true,
            lock: true,
        },
    )
    .map_err(|source| OpenError::Backing {
        overlay: path.to_owned(),
        backing: beside(path, backing),
        source: Box::new(source),
    })?;
    let below_it = std::iter::successors(Some(&below), |image| image.backing()).count();
    if below_it >= DEPTH {
        return Err(OpenError::Depth(DEPTH));
    }
    if how.format != Format::Qcow2 || how.preallocation != Preallocation::Off {
        return Err(OpenError::Argument(
            "an overlay is a qcow2 image without preallocation".into(),
        ));
    }
    if backing.contains(':') && !backing.starts_with('/') {
        return Err(OpenError::Argument(format!(
            "a backing file's name with a colon would be taken for a protocol; write ./{backing}"
        )));
    }
    let size = size.unwrap_or(below.size());
    whole_sectors(size)?;
    let new = NewFile::begin(path, how.force)?;
    let store = new.file().and_then(|file| Store::new(file, path));
    let store = store.map_err(OpenError::io("create", path))?;
    qcow2::create(
        &store,
        &how.layout(size, Some((backing.to_owned(), below.format().name()))),
    )?;
    new.finish()
}
