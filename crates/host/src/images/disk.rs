//! Disks of images, made from archives of files.

use crate::record::{RecordError, hex};
use crate::store::Draft;
use donjon_block::{Format, OpenError, manage};
use donjon_ext4::{Limits, Options, Spool, Tree};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The files.
    #[error("cannot unpack the files of the image: {0}")]
    Files(#[from] donjon_ext4::Error),
    /// The file system.
    #[error("cannot make a file system of the image's files: {0}")]
    FileSystem(#[from] donjon_ext4::WriteError),
    /// The disk image.
    #[error(transparent)]
    Image(#[from] OpenError),
    /// A file operation.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What a disk is to be.
pub struct NewDisk<'a> {
    /// Its file system's label.
    pub label: &'a str,
    /// What its file system's UUID is made of.
    pub seed: &'a str,
    /// Bytes.
    pub size: u64,
    /// When it was made, seconds since 1970.
    pub date: u64,
}

/// Makes the draft's disk: an ext4 file system with the files of the archives, one over the other. The same archives
/// give the same bytes. Returns their SHA-256.
pub fn of_archives(
    draft: &Draft,
    layers: Vec<Box<dyn Read + '_>>,
    how: &NewDisk<'_>,
) -> Result<String, DiskError> {
    let spool = draft.scratch("content");
    let mut tree = Tree::new(Spool::new(create(&spool)?), Limits::default());
    for mut layer in layers {
        tree.add_tar(&mut *layer)?;
    }
    let options = Options {
        label: how.label.into(),
        timestamp: u32::try_from(how.date).unwrap_or(u32::MAX),
        ..Options::of_digest(how.size, &Sha256::digest(how.seed.as_bytes()).into())
    };
    let raw = draft.scratch("disk.raw");
    donjon_ext4::write(&tree, &options, &create(&raw)?)?;
    drop(tree);
    // Neither is needed twice at a time.
    std::fs::remove_file(&spool).map_err(RecordError::io("remove", &spool))?;
    convert(draft, &raw)?;
    Ok(sum(&draft.disk())?)
}

/// Makes the draft's disk of a raw one, which then is gone.
pub fn convert(draft: &Draft, raw: &Path) -> Result<(), DiskError> {
    let conversion = manage::Conversion {
        source_format: Some(Format::Raw),
        ..manage::Conversion::default()
    };
    manage::convert(raw, &draft.disk(), &conversion, &|_| ())?;
    std::fs::remove_file(raw).map_err(RecordError::io("remove", raw))?;
    Ok(())
}

/// Makes a file.
pub fn create(path: &Path) -> Result<File, RecordError> {
    let file = File::options().create_new(true).read(true).write(true).open(path);
    file.map_err(RecordError::io("create", path))
}

/// A file's SHA-256.
pub fn sum(path: &Path) -> Result<String, RecordError> {
    let mut file = File::open(path).map_err(RecordError::io("open", path))?;
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&sha.finalize())),
            Ok(n) => sha.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(RecordError::io("read", path)(e)),
        }
    }
}
