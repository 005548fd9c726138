//! State files: JSON behind a line that says what they are, in which version, and the SHA-256 of the rest. They are
//! replaced as a whole, and made durable, so a reader finds the old one or the new one.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Bytes of a state file at most.
const LIMIT: u64 = 16 << 20;

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// There is none.
    #[error("there is no {}", .0.display())]
    Absent(PathBuf),
    /// It is not what was written.
    #[error("{path} is damaged: {what}; put it back from a backup, or remove it", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        what: String,
    },
    /// A newer donjon wrote it.
    #[error("{path} is of version {version}, and this donjon knows {known}: use a newer one", path = .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: u32,
        /// What is understood here.
        known: u32,
    },
    /// A file operation failed.
    #[error("cannot {what} {path}: {cause}", path = .path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

impl RecordError {
    /// The error of a failed operation on a file.
    pub fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { what, path, cause }
    }
}

/// Something that is kept in a state file of its own.
pub trait Record: Serialize + DeserializeOwned {
    /// What the file is called in its first line.
    const KIND: &'static str;
    /// The version written. Older ones are read: fields that were added have defaults.
    const VERSION: u32;

    /// Replaces the file at `path`.
    fn save(&self, path: &Path) -> Result<(), RecordError> {
        let body =
            serde_json::to_string_pretty(self).map_err(|e| RecordError::io("write", path)(e.into()))? + "\n";
        let text = format!(
            "{} {} {}\n{body}",
            Self::KIND,
            Self::VERSION,
            sum(body.as_bytes())
        );
        replace(path, text.as_bytes())
    }

    /// Reads it.
    fn load(path: &Path) -> Result<Self, RecordError> {
        let damaged = |what: String| RecordError::Damaged {
            path: path.into(),
            what,
        };
        let mut text = String::new();
        let file = File::open(path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => RecordError::Absent(path.into()),
            _ => RecordError::io("open", path)(e),
        })?;
        match file.take(LIMIT + 1).read_to_string(&mut text) {
            Ok(n) if n as u64 > LIMIT => return Err(damaged(format!("it is longer than {LIMIT} bytes"))),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::InvalidData => return Err(damaged("it is not text".into())),
            Err(e) => return Err(RecordError::io("read", path)(e)),
        }
        let (first, body) = text.split_once('\n').unwrap_or((&text, ""));
        let words: Vec<_> = first.split(' ').collect();
        let [kind, version, is] = words[..] else {
            return Err(damaged("its first line is not that of a state file".into()));
        };
        if kind != Self::KIND {
            return Err(damaged(format!("it is a {kind:?} and no {}", Self::KIND)));
        }
        let version: u32 = version.parse().map_err(|_| damaged("it has no version".into()))?;
        if version > Self::VERSION {
            return Err(RecordError::Newer {
                path: path.into(),
                version,
                known: Self::VERSION,
            });
        }
        if is != sum(body.as_bytes()) {
            return Err(damaged("its SHA-256 is not that in its first line".into()));
        }
        serde_json::from_str(body).map_err(|e| damaged(e.to_string()))
    }
}

fn sum(body: &[u8]) -> String {
    hex(&Sha256::digest(body))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn replace(path: &Path, content: &[u8]) -> Result<(), RecordError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut new = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(directory)
        .map_err(RecordError::io("create a file in", directory))?;
    let written = new.write_all(content).and_then(|()| new.as_file().sync_all());
    written.map_err(RecordError::io("write", path))?;
    new.persist(path)
        .map_err(|e| RecordError::io("replace", path)(e.error))?;
    sync(directory)
}

/// Makes the names in a directory durable.
pub(crate) fn sync(directory: &Path) -> Result<(), RecordError> {
    let synced = File::open(directory).and_then(|d| d.sync_all());
    synced.map_err(RecordError::io("sync", directory))
}

/// Makes a directory with all above it.
pub(crate) fn create_directory(path: &Path) -> Result<(), RecordError> {
    fs::create_dir_all(path).map_err(RecordError::io("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Thing {
        name: String,
    }

    impl Record for Thing {
        const KIND: &'static str = "donjon-thing";
        const VERSION: u32 = 2;
    }

    #[test]
    fn what_is_saved_is_loaded_and_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("thing");
        let error = || Thing::load(&path).unwrap_err().to_string();
        assert!(error().contains("there is no"));
        let thing = Thing { name: "a".into() };
        thing.save(&path).unwrap();
        assert_eq!(Thing::load(&path).unwrap(), thing);
        let good = fs::read_to_string(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(Thing::load(&path).is_err(), "byte {at}");
        }
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(error().contains("SHA-256"));
        // An older version is read, a newer one is not.
        let body = good.split_once('\n').unwrap().1;
        fs::write(&path, format!("donjon-thing 1 {}\n{body}", sum(body.as_bytes()))).unwrap();
        assert_eq!(Thing::load(&path).unwrap(), thing);
        fs::write(&path, format!("donjon-thing 3 {}\n{body}", sum(body.as_bytes()))).unwrap();
        assert!(error().contains("use a newer one"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
