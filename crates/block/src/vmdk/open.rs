//! Opening an image, with the files that its descriptor names.

use super::descriptor::{self, Descriptor, ExtentKind, ExtentLine};
use super::header::{Header, MAGIC, unsupported};
use super::sparse::{Sparse, first_sector};
use super::{Extent, Kind, SECTOR, Vmdk};
use crate::chain::{Options, open_file};
use crate::error::{Corrupt, OpenError};
use crate::store::Store;
use std::path::Path;

impl Vmdk {
    /// Takes over a file that starts with a sparse extent's header or is a descriptor. `options` are for the files
    /// that it names.
    pub(crate) fn open(store: Store, options: &Options) -> Result<Self, OpenError> {
        let path = store.path().to_owned();
        let first = first_sector(&store, 0)?;
        if !first.starts_with(MAGIC) {
            let len = store.len().map_err(OpenError::io("examine", &path))?;
            let found = Descriptor::parse(&text(&store, 0, len)?, &path)?;
            return Self::described(&path, found, options);
        }
        let header = Header::parse(&first, &path)?;
        let (at, len) = (header.descriptor, header.descriptor_size);
        let text = match (at.checked_mul(SECTOR), len.checked_mul(SECTOR)) {
            (Some(at), Some(len)) if at > 0 => text(&store, at, len)?,
            _ => vec![],
        };
        if text.iter().all(|b| *b == 0) {
            return Err(OpenError::NoDescriptor(path));
        }
        let found = Descriptor::parse(&text, &path)?;
        // A header that is there for the descriptor alone.
        if header.capacity == 0 && !header.is_at_end() {
            return Self::described(&path, found, options);
        }
        let sparse = Sparse::open(store, header)?;
        // The file may have another name than its descriptor thinks; it is the only one in any case.
        let extent = Extent {
            range: 0..sparse.capacity * SECTOR,
            kind: Kind::Sparse(sparse),
        };
        Ok(Self::new(found.create_type, vec![extent]))
    }

    fn new(create_type: String, extents: Vec<Extent>) -> Self {
        Self {
            create_type,
            extents,
            tables: Default::default(),
            inflated: Default::default(),
        }
    }

    fn described(path: &Path, found: Descriptor, options: &Options) -> Result<Self, OpenError> {
        let mut extents = vec![];
        let mut start = 0;
        for line in found.extents.into_iter().filter(|line| line.sectors > 0) {
            let end = line
                .sectors
                .checked_mul(SECTOR)
                .and_then(|len| len.checked_add(start));
            let Some(end) = end.filter(|end| *end <= i64::MAX as u64) else {
                return Err(Corrupt::vmdk(path, "its descriptor names more than a disk can have", 0).into());
            };
            let kind = Kind::open(&line, path, options).map_err(|e| in_terms_of(e, path))?;
            extents.push(Extent {
                range: start..end,
                kind,
            });
            start = end;
        }
        if extents.is_empty() {
            return Err(Corrupt::vmdk(path, "its descriptor names no extents", 0).into());
        }
        Ok(Self::new(found.create_type, extents))
    }
}

impl Kind {
    fn open(line: &ExtentLine, disk: &Path, options: &Options) -> Result<Self, OpenError> {
        let open = |name: &str| open_file(&disk.with_file_name(name), options);
        let len = line.sectors * SECTOR;
        match &line.kind {
            ExtentKind::Zero => Ok(Self::Zero),
            ExtentKind::Flat(name, at) => {
                let store = open(name)?;
                let there = store.len().map_err(OpenError::io("examine", store.path()))?;
                let at = at.checked_mul(SECTOR);
                match at.filter(|at| at.checked_add(len).is_some_and(|end| end <= there)) {
                    Some(at) => Ok(Self::Flat(store, at)),
                    None => {
                        let what = "it is shorter than its descriptor says";
                        Err(Corrupt::vmdk(store.path(), what, there).into())
                    }
                }
            }
            ExtentKind::Sparse(name) => {
                let store = open(name)?;
                let first = first_sector(&store, 0)?;
                if first.starts_with(b"COWD") {
                    return Err(unsupported(disk, "a COWD extent, as of ESX,"));
                }
                let header = Header::parse(&first, store.path())?;
                let sparse = Sparse::open(store, header)?;
                // Some tools round the capacity up to whole grains.
                if sparse.capacity < line.sectors {
                    let what = "its capacity is less than its descriptor says";
                    return Err(Corrupt::vmdk(sparse.store.path(), what, 12).into());
                }
                Ok(Self::Sparse(sparse))
            }
        }
    }
}

/// An extent's error, for who only knows the disk.
fn in_terms_of(error: OpenError, disk: &Path) -> OpenError {
    match error {
        OpenError::Missing(extent) => OpenError::ExtentMissing {
            file: disk.to_owned(),
            extent,
        },
        OpenError::Unsupported { what, .. } => unsupported(disk, what),
        other => other,
    }
}

fn text(store: &Store, at: u64, len: u64) -> Result<Vec<u8>, OpenError> {
    let path = store.path();
    if len > descriptor::MAX {
        return Err(Corrupt::vmdk(path, "its descriptor is larger than 1 MiB", at).into());
    }
    let mut text = vec![0; len as usize];
    store.read(at, &mut text).map_err(OpenError::io("read", path))?;
    Ok(text)
}
