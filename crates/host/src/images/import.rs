//! Disk images that others made, as images of the store.

use super::disk::{DiskError, sum};
use crate::disk_boot::{self, DiskBootError};
use crate::progress::Progress;
use crate::record::RecordError;
use crate::store::{ImageRecord, Kind, Store, StoreError, Stored, now};
use donjon_block::{Format, OpenError, Options, manage, open};
use std::path::{Path, PathBuf};

/// Why an image cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The digest is not written as one.
    #[error("--digest {0}: write it as sha256: and 64 hexadecimal digits, as sha256sum prints them")]
    Digest(String),
    /// It is another file.
    #[error("{file} is not what was expected: its digest is sha256:{is}, not sha256:{expected}; get it anew, or ask where it is from", file = .file.display())]
    Differs {
        /// The file.
        file: PathBuf,
        /// Its digest.
        is: String,
        /// That which was given.
        expected: String,
    },
    /// It is only a part.
    #[error(
        "{file} needs another file, {needs}, which an image may not choose for itself; make one of both: `donjon disk \
         convert {file} whole.qcow2`, and import that",
        file = .file.display()
    )]
    Chain {
        /// The file.
        file: PathBuf,
        /// What it is based on.
        needs: String,
    },
    /// The host cannot boot it.
    #[error(transparent)]
    Boot(#[from] DiskBootError),
    /// The image.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The copy.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<RecordError> for ImportError {
    fn from(error: RecordError) -> Self {
        Self::Store(error.into())
    }
}

/// The digits of a digest such as `sha256:…`.
pub fn digest(text: &str) -> Result<String, ImportError> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    match digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(digits),
        false => Err(ImportError::Digest(text.into())),
    }
}

/// Copies a disk image into the store and calls it `name`. With a digest, only if the file has that one. It must hold a
/// system that the host can boot.
pub fn import(
    store: &Store,
    file: &Path,
    expected: Option<&str>,
    name: &str,
    progress: &dyn Progress,
) -> Result<Stored, ImportError> {
    let expected = expected.map(digest).transpose()?;
    // The image's own header must not say which other files are read.
    let info = manage::info(file, None)?;
    if let Some(part) = info.first().and_then(|i| i.qcow2.as_ref())
        && let Some(needs) = part.backing.clone().or_else(|| part.data_file.clone())
    {
        let file = file.to_owned();
        return Err(ImportError::Chain { file, needs });
    }
    progress.step(&format!("reading {}", file.display()));
    let is = sum(file)?;
    if let Some(expected) = expected.filter(|e| *e != is) {
        let file = file.to_owned();
        return Err(ImportError::Differs { file, is, expected });
    }
    if let Ok(stored) = store.image(&format!("sha256:{is}")) {
        store.name(name, &is)?;
        return Ok(store.image(name).unwrap_or(stored));
    }
    let draft = store.begin()?;
    progress.step(&format!("copying {}", file.display()));
    let percent = |done: f32| progress.percent(done * 100.0);
    manage::convert(file, &draft.disk(), &manage::Conversion::default(), &percent)?;
    let options = Options {
        format: Some(Format::Qcow2),
        read_only: true,
        ..Options::default()
    };
    let image = open(draft.disk(), &options)?;
    let system = disk_boot::find(&image, &[])?;
    let record = ImageRecord {
        id: is,
        kind: Kind::System,
        source: file.display().to_string(),
        system: system.name,
        size: image.size(),
        cloud_init: system.cloud_init,
        created: now(),
    };
    drop(image);
    progress.finish();
    Ok(draft.keep(record, name)?)
}

/// What the system on an image's disk calls itself, if it can be found.
pub(super) fn system_name(path: &Path) -> Option<String> {
    let options = Options {
        format: Some(Format::Qcow2),
        read_only: true,
        lock: false,
    };
    disk_boot::find(&open(path, &options).ok()?, &[]).ok()?.name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::fs;

    #[test]
    fn digests_are_read_as_people_write_them() {
        let digits = "0a".repeat(32);
        assert_eq!(digest(&format!("sha256:{digits}")).unwrap(), digits);
        assert_eq!(digest(&digits.to_uppercase()).unwrap(), digits);
        for bad in ["", "sha256:", "sha512:00", &digits[1..]] {
            assert!(digest(bad).unwrap_err().to_string().contains("sha256sum"));
        }
    }

    #[test]
    fn what_is_not_whole_or_not_expected_is_refused_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("store"));
        let (base, over) = (
            directory.path().join("base.qcow2"),
            directory.path().join("over.qcow2"),
        );
        manage::create(&base, 1 << 20, &manage::Creation::default()).unwrap();
        manage::overlay(&over, "base.qcow2", None, None, &manage::Creation::default()).unwrap();
        let error = |file: &Path, digest: Option<&str>| {
            let refused = import(&store, file, digest, "x", &Silent);
            refused.unwrap_err().to_string()
        };
        assert!(error(&over, None).contains("donjon disk convert"));
        assert!(error(&base, Some(&"00".repeat(32))).contains("not what was expected"));
        // It has no system.
        assert!(error(&base, None).contains("no system"));
        assert!(store.images_there().unwrap().is_empty());
        let left = fs::read_dir(store.root().join("images")).unwrap().flatten();
        assert_eq!(left.filter(|e| e.path().is_dir()).count(), 0);
        // No file, or none that is a disk.
        assert!(!error(&directory.path().join("none"), None).is_empty());
    }
}
