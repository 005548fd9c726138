//! Layers put on top of each other: a tree of files, and a disk of it.

use crate::error::is_full;
use crate::layer::{Archive, Bounds, tell_unpacking};
use crate::progress::Progress;
use crate::{Error, Image, Layer, Store};
use donjon_ext4::{Limits, Options, Spool, Tree, WriteError, Written};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

/// What an image may become.
#[derive(Clone, Copy, Debug)]
pub struct Unpack {
    /// Of its files. The bytes also bound the layers' archives.
    pub limits: Limits,
    /// Uncompressed bytes for each compressed byte of a layer; not asked below 256 MiB. gzip reaches 1030.
    pub ratio: u64,
}

impl Default for Unpack {
    /// 64 GiB, two million files, 2000 bytes of one.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            ratio: 2000,
        }
    }
}

impl Image {
    /// A disk of this size for the image: its UUID comes from the image's digest, so two images' disks differ and two
    /// disks of one image are the same.
    pub fn disk(&self, size: u64) -> Options {
        Options::of_digest(size, self.digest.bytes())
    }
}

/// Applies an image's layers. The files' content is in a nameless file in the store's directory for as long as the
/// tree is there.
pub fn unpack(
    image: &Image,
    store: &Store,
    options: &Unpack,
    progress: &mut Progress<'_>,
) -> Result<Tree, Error> {
    let mut tree = Tree::new(Spool::new(store.scratch()?), options.limits);
    let mut unpacked = 0;
    for (at, layer) in image.layers.iter().enumerate() {
        let bounds = Bounds {
            left: archive_limit(options) - unpacked,
            limit: archive_limit(options),
            ratio: options.ratio.max(1),
        };
        let index = at + 1;
        let mut tell = tell_unpacking(progress, index, image.layers.len(), unpacked);
        tell(0)?;
        let applied = apply(&mut tree, index, layer, store, bounds, &mut tell);
        unpacked += match applied {
            Ok(bytes) => bytes,
            // What is wrong with it may be the store's fault, not the image's.
            Err(error @ Error::Layer { .. }) => {
                return Err(store.verify(layer.digest).err().unwrap_or(error));
            }
            Err(error) => return Err(error),
        };
    }
    Ok(tree)
}

/// Writes the disk that an image is, durably: see [`unpack`] and [`donjon_ext4::write()`]. After an error `out` is
/// empty.
pub fn flatten(
    image: &Image,
    store: &Store,
    out: &File,
    options: &Unpack,
    disk: &Options,
    progress: &mut Progress<'_>,
) -> Result<Written, Error> {
    let tree = unpack(image, store, options, progress)?;
    let full = |error: &io::Error| is_full(error).then(|| Error::Full { path: path_of(out) });
    let written = donjon_ext4::write(&tree, disk, out).map_err(|error| match &error {
        WriteError::Output(e) => full(e).unwrap_or(Error::Disk(error)),
        _ => Error::Disk(error),
    });
    let synced = written.and_then(|written| match out.sync_all() {
        Ok(()) => Ok(written),
        Err(e) => Err(full(&e).unwrap_or(Error::Disk(WriteError::Output(e)))),
    });
    if synced.is_err() {
        let _ = out.set_len(0);
    }
    synced
}

/// Archives have headers and padding beside the files' content.
fn archive_limit(options: &Unpack) -> u64 {
    let headers = options.limits.entries.saturating_mul(4096);
    options.limits.content.saturating_add(headers)
}

fn apply(
    tree: &mut Tree,
    index: usize,
    layer: &Layer,
    store: &Store,
    bounds: Bounds,
    tell: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<u64, Error> {
    let broken = |what: String| Error::Layer {
        index,
        digest: layer.digest,
        what,
    };
    let file = store.open(layer.digest)?;
    let mut archive = Archive::new(file, bounds, tell).map_err(|e| broken(e.to_string()))?;
    let added = tree.add_tar(&mut BufReader::with_capacity(128 << 10, &mut archive));
    let read = added
        .map_err(Failed::Tree)
        .and_then(|()| archive.finish().map_err(Failed::Read));
    let (digest, bytes) = read.map_err(|failed| match (archive.stopped(), failed) {
        (Some(stopped), _) => stopped,
        (None, Failed::Tree(donjon_ext4::Error::Content(limit))) => Error::Limit {
            what: "more bytes in its files".into(),
            limit,
        },
        (None, Failed::Tree(donjon_ext4::Error::Entries(limit))) => Error::Limit {
            what: "more files".into(),
            limit,
        },
        (None, Failed::Tree(donjon_ext4::Error::Spool(e))) => Error::io("write a file in", store.root())(e),
        (None, Failed::Tree(error)) => broken(error.to_string()),
        (None, Failed::Read(error)) => broken(error.to_string()),
    })?;
    match digest == layer.diff_id {
        true => Ok(bytes),
        false => Err(broken(format!(
            "the archive in it is {digest}, but the configuration says {}",
            layer.diff_id
        ))),
    }
}

enum Failed {
    Tree(donjon_ext4::Error),
    Read(io::Error),
}

/// An open file's name, for errors.
fn path_of(file: &File) -> std::path::PathBuf {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::read_link(&link).unwrap_or_else(|_| Path::new(&link).to_owned())
}
