//! The images that domains start from, each in a directory called by its digest, and the names they have.
//!
//! An image never changes once it is there; domains' disks are overlays of it. It comes into the store by a rename,
//! whole and durable, and one that is being made is invisible. Any number of processes may use the store at once.

use crate::record::{Record, RecordError, create_directory, sync};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const DRAFT: &str = ".draft-";
const NAMES: &str = "names.json";
const IMAGE: &str = "image.json";
/// What an image's disk is called in its directory.
const DISK: &str = "disk.qcow2";
/// Digits of an image's identity that people get to see.
const SHORT: usize = 12;

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No environment variable says where.
    #[error(
        "no place for images and domains: neither XDG_DATA_HOME nor HOME is an absolute path; set one, for example \
         `export XDG_DATA_HOME=/var/tmp/$USER`"
    )]
    NoHome,
    /// No such image.
    #[error("there is no image {wanted}; see which there are: `donjon image ls`")]
    Unknown {
        /// What was asked for.
        wanted: String,
    },
    /// Several begin like that.
    #[error("{wanted} is the beginning of several images' identities; write more of it: `donjon image ls`")]
    Several {
        /// What was asked for.
        wanted: String,
    },
    /// Domains need it.
    #[error(
        "the image {image} is what the disks of these domains are based on: {domains}; remove them first: `donjon rm {first}`"
    )]
    InUse {
        /// The image.
        image: String,
        /// Their names.
        domains: String,
        /// One of them.
        first: String,
    },
    /// A state file or a file operation.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What a disk image of the store is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A system that boots.
    System,
    /// The files of a container image, whose program is started in them.
    Container(Box<Process>),
}

/// What a container image says of the program to start (OCI image specification, "Image Configuration").
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program if there is no entrypoint.
    pub command: Vec<String>,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
    /// `USER[:GROUP]`, names or numbers; root if empty.
    pub user: String,
    /// Where it starts; `/` if empty.
    pub directory: String,
    /// The signal that ends it, such as `SIGQUIT`; SIGTERM if empty.
    pub stop_signal: String,
    /// `80/tcp` and the like: for people.
    pub ports: Vec<String>,
}

/// An image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImageRecord {
    /// SHA-256 of what it was made from, in hexadecimal digits: of its file, or of its manifest.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// Where it is from, for people.
    pub source: String,
    /// The system in it, for people.
    #[serde(default)]
    pub system: Option<String>,
    /// Bytes of its disk.
    pub size: u64,
    /// Whether cloud-init sets its systems up: they get a seed even if the user says nothing about it.
    #[serde(default)]
    pub cloud_init: bool,
    /// When it came, seconds since 1970.
    pub created: u64,
}

impl Record for ImageRecord {
    const KIND: &'static str = "donjon-image";
    const VERSION: u32 = 1;
}

impl ImageRecord {
    /// Its identity in short.
    pub fn short(&self) -> &str {
        self.id.get(..SHORT).unwrap_or(&self.id)
    }
}

/// Names, and the identities of the images they mean.
#[derive(Default, Serialize, Deserialize)]
struct Names(BTreeMap<String, String>);

impl Record for Names {
    const KIND: &'static str = "donjon-image-names";
    const VERSION: u32 = 1;
}

/// An image in the store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What it is.
    pub image: ImageRecord,
    /// Its names, in order.
    pub names: Vec<String>,
    /// Its disk.
    pub disk: PathBuf,
}

impl Stored {
    /// A name, or what it has instead.
    pub fn name(&self) -> &str {
        self.names.first().map_or(self.image.short(), String::as_str)
    }
}

/// Where images and domains are kept.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// The store's lock, held: nothing comes and goes meanwhile.
pub struct StoreLock {
    _file: File,
}

impl Store {
    /// The user's: `$XDG_DATA_HOME/donjon`, or `~/.local/share/donjon` (XDG Base Directory Specification 0.8).
    pub fn of_user() -> Result<Self, StoreError> {
        let variable = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
        };
        let data = variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|h| h.join(".local/share")));
        Ok(Self::at(data.ok_or(StoreError::NoHome)?.join("donjon")))
    }

    /// The one at an absolute path, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Keeps others from changing the store until it is dropped.
    pub fn lock(&self) -> Result<StoreLock, StoreError> {
        create_directory(&self.root)?;
        Ok(StoreLock {
            _file: lock_file(&self.root.join("lock"), || ())?,
        })
    }

    /// Keeps others from making the image of this name; whoever gets it looks whether it is there by now. `waiting` is
    /// called if another process makes it.
    pub fn making(&self, name: &str, waiting: impl FnOnce()) -> Result<StoreLock, StoreError> {
        let directory = self.images();
        create_directory(&directory)?;
        let digest = <sha2::Sha256 as sha2::Digest>::digest(name.as_bytes());
        let file = format!(".making-{}", &crate::record::hex(&digest)[..16]);
        Ok(StoreLock {
            _file: lock_file(&directory.join(file), waiting)?,
        })
    }

    /// All images, by their names.
    pub fn images_there(&self) -> Result<Vec<Stored>, StoreError> {
        let names = self.names()?;
        let mut all = vec![];
        for entry in fs::read_dir(self.images()).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if !is_id(&id) {
                continue;
            }
            match self.stored(&id, &names) {
                Ok(stored) => all.push(stored),
                Err(StoreError::Record(RecordError::Absent(_))) => {}
                Err(e) => return Err(e),
            }
        }
        all.sort_by(|a, b| (&a.names, a.image.created).cmp(&(&b.names, b.image.created)));
        Ok(all)
    }

    /// The image that a word means: a name, an identity or at least four digits of its beginning.
    pub fn image(&self, wanted: &str) -> Result<Stored, StoreError> {
        let names = self.names()?;
        if let Some(id) = names.0.get(wanted) {
            return self.stored(id, &names);
        }
        let unknown = || StoreError::Unknown {
            wanted: wanted.into(),
        };
        let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        if digits.len() < 4 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let mut found = self.images_there()?;
        found.retain(|s| s.image.id.starts_with(digits));
        match found.len() {
            0 => Err(unknown()),
            1 => Ok(found.remove(0)),
            _ => Err(StoreError::Several {
                wanted: wanted.into(),
            }),
        }
    }

    /// Begins an image: a directory that disappears unless it is kept.
    pub fn begin(&self) -> Result<Draft, StoreError> {
        let directory = self.images();
        create_directory(&directory)?;
        let _lock = self.lock()?;
        sweep(&directory);
        let made = tempfile::Builder::new().prefix(DRAFT).tempdir_in(&directory);
        let directory = made.map_err(RecordError::io("create a directory in", &directory))?;
        let lock = lock_file(&directory.path().join("lock"), || ())?;
        Ok(Draft {
            store: self.clone(),
            directory,
            _lock: lock,
        })
    }

    /// Calls an image by another name, too. What had the name before loses it.
    pub fn name(&self, name: &str, id: &str) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let mut names = self.names()?;
        names.0.insert(name.into(), id.into());
        Ok(names.save(&self.images().join(NAMES))?)
    }

    /// Takes a name from its image, and removes the image with its last one, or at once if it is named by its
    /// identity. `used` tells which domains need an image.
    pub fn remove(&self, wanted: &str, used: impl FnOnce(&str) -> Vec<String>) -> Result<Stored, StoreError> {
        let _lock = self.lock()?;
        let found = self.image(wanted)?;
        let mut names = self.names()?;
        let by_name = names.0.contains_key(wanted);
        if !by_name || found.names.len() == 1 {
            let domains = used(&found.image.id);
            if let Some(first) = domains.first() {
                return Err(StoreError::InUse {
                    image: wanted.into(),
                    domains: domains.join(", "),
                    first: first.clone(),
                });
            }
        }
        names
            .0
            .retain(|name, id| *id != found.image.id || (by_name && name != wanted));
        names.save(&self.images().join(NAMES))?;
        if !names.0.values().any(|id| *id == found.image.id) {
            let directory = self.images().join(&found.image.id);
            fs::remove_dir_all(&directory).map_err(RecordError::io("remove", &directory))?;
        }
        Ok(found)
    }

    fn names(&self) -> Result<Names, StoreError> {
        match Names::load(&self.images().join(NAMES)) {
            Err(RecordError::Absent(_)) => Ok(Names::default()),
            other => Ok(other?),
        }
    }

    fn stored(&self, id: &str, names: &Names) -> Result<Stored, StoreError> {
        let directory = self.images().join(id);
        let image = ImageRecord::load(&directory.join(IMAGE))?;
        let names = names
            .0
            .iter()
            .filter(|(_, of)| *of == id)
            .map(|(name, _)| name.clone());
        Ok(Stored {
            image,
            names: names.collect(),
            disk: directory.join(DISK),
        })
    }
}

/// An image being made.
pub struct Draft {
    store: Store,
    directory: tempfile::TempDir,
    _lock: File,
}

impl Draft {
    /// Where its disk is to be, as qcow2.
    pub fn disk(&self) -> PathBuf {
        self.directory.path().join(DISK)
    }

    /// A file that is gone when the image is there.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("scratch-{name}"))
    }

    /// Puts it into the store under a name. One of the same identity is there already: then that stays.
    pub fn keep(self, image: ImageRecord, name: &str) -> Result<Stored, StoreError> {
        let from = self.directory.path().to_owned();
        for entry in fs::read_dir(&from).into_iter().flatten().flatten() {
            if entry.file_name() != DISK {
                let path = entry.path();
                fs::remove_file(&path).map_err(RecordError::io("remove", &path))?;
            }
        }
        let disk = self.disk();
        let synced = File::open(&disk).and_then(|f| f.sync_all());
        synced.map_err(RecordError::io("write", &disk))?;
        let mut rights = fs::metadata(&disk)
            .map_err(RecordError::io("examine", &disk))?
            .permissions();
        rights.set_readonly(true);
        fs::set_permissions(&disk, rights).map_err(RecordError::io("protect", &disk))?;
        image.save(&from.join(IMAGE))?;
        let (id, store) = (image.id.clone(), self.store.clone());
        let target = store.images().join(&id);
        {
            let _lock = store.lock()?;
            if !target.join(IMAGE).exists() {
                fs::rename(&from, &target).map_err(RecordError::io("rename to", &target))?;
                sync(&store.images())?;
                // It is there no more under this name.
                let _ = self.directory.keep();
            }
        }
        store.name(name, &id)?;
        let names = store.names()?;
        store.stored(&id, &names)
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn lock_file(path: &Path, waiting: impl FnOnce()) -> Result<File, RecordError> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path);
    let file = file.map_err(RecordError::io("open", path))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Ok(file);
    }
    waiting();
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
        .map_err(|e| RecordError::io("lock", path)(e.into()))?;
    Ok(file)
}

/// Removes what killed processes left half done.
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(DRAFT) {
            continue;
        }
        let alive = File::open(entry.path().join("lock"))
            .is_ok_and(|f| rustix::fs::flock(&f, FlockOperation::NonBlockingLockExclusive).is_err());
        if !alive {
            // What cannot be removed now is tried again next time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
