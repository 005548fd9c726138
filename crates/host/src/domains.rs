//! Domains that outlive their processes: what each is, its disk and its console's output, in a directory of its own.

use crate::record::{Record, RecordError, create_directory, sync};
use crate::store::{Process, Store, StoreError, StoreLock};
use donjon_block::{Format, OpenError, manage};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const RECORD: &str = "domain.json";
const DISK: &str = "disk.qcow2";
const LOG: &str = "console.log";
/// Directories whose names begin like this are no domains yet, or no more.
const DRAFT: &str = ".draft-";
const GONE: &str = ".gone-";

/// What a domain boots.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// The built-in image: see [`crate::images::tiny`].
    Tiny,
    /// A kernel of the user's.
    Kernel {
        /// The file.
        kernel: PathBuf,
        /// Its initial RAM disk.
        initrd: Option<PathBuf>,
    },
    /// The system on its disk.
    Disk,
    /// The program of a container image, on its disk.
    Container(Box<Process>),
}

/// What a domain is. Devices are written as on the command line; paths are absolute.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DomainRecord {
    /// Its image, as the user named it; empty for a kernel.
    pub image: String,
    /// The image's identity, which its disk is an overlay of.
    #[serde(default)]
    pub image_id: Option<String>,
    /// What it boots.
    pub boot: Boot,
    /// The kernel's command line, if the user gave one.
    #[serde(default)]
    pub append: Option<String>,
    /// vCPUs.
    pub cpus: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// Whether it is made of the host's huge pages.
    #[serde(default)]
    pub huge_pages: bool,
    /// Whether the host gives all of it at the start.
    #[serde(default)]
    pub preallocate: bool,
    /// The CPU model's name.
    pub cpu_model: String,
    /// The engine's name.
    pub engine: String,
    /// Bytes of translated code.
    pub translation_arena: u64,
    /// Whether translated code counts instructions.
    #[serde(default)]
    pub count_instructions: bool,
    /// Whether it ends when the guest resets the machine.
    #[serde(default)]
    pub no_reboot: bool,
    /// Whether the console is a virtio console.
    #[serde(default)]
    pub virtio_console: bool,
    /// Its disks beside that of its image.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Its persistent memory.
    #[serde(default)]
    pub pmems: Vec<String>,
    /// Shared directories that the guest mounts itself.
    #[serde(default)]
    pub file_systems: Vec<String>,
    /// Its network interfaces.
    #[serde(default)]
    pub nets: Vec<String>,
    /// Its sockets, if the user says where.
    #[serde(default)]
    pub vsock: Option<String>,
    /// Directories of the host, and where the guest has them: `HOST:GUEST[:ro]`.
    #[serde(default)]
    pub shares: Vec<String>,
    /// Who sets a new system up.
    #[serde(default)]
    pub set_up: SetUp,
    /// The user made at the first boot, with the SSH keys that may log in.
    #[serde(default)]
    pub user: Option<User>,
    /// Whether it is removed when it ends.
    #[serde(default)]
    pub remove: bool,
    /// When it was made, seconds since 1970.
    pub created: u64,
}

/// Who sets a new system up.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetUp {
    /// The agent.
    #[default]
    Agent,
    /// cloud-init, with what is known of the user.
    CloudInit,
    /// cloud-init, with a user-data file.
    UserData(PathBuf),
}

/// A user of the guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Public keys, as in authorized_keys.
    pub ssh_keys: Vec<String>,
}

impl Record for DomainRecord {
    const KIND: &'static str = "donjon-domain";
    const VERSION: u32 = 1;
}

/// Why something cannot be done with a domain.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// One of that name is there.
    #[error("there is a domain called {0} already; choose another --name, or remove it: donjon rm {0}")]
    Taken(String),
    /// None of that name.
    #[error("there is no domain called {0}; see which there are: donjon ps -a")]
    Unknown(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A state file.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Its disk.
    #[error(transparent)]
    Disk(#[from] OpenError),
}

/// The domains in a [`Store`].
#[derive(Clone, Debug)]
pub struct Domains {
    store: Store,
    root: PathBuf,
}

/// One of them. As long as anyone has it, it is not taken for one that a killed process left.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// What it is.
    pub record: DomainRecord,
    directory: PathBuf,
    _held: Arc<File>,
}

impl Domain {
    /// Its disk, if it has one of an image.
    pub fn disk(&self) -> Option<PathBuf> {
        self.record.image_id.is_some().then(|| self.directory.join(DISK))
    }

    /// Where the console's output is kept.
    pub fn log(&self) -> PathBuf {
        self.directory.join(LOG)
    }

    /// A file of the domain's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Domains {
    /// Those of a store.
    pub fn of(store: &Store) -> Self {
        Self {
            store: store.clone(),
            root: store.root().join("domains"),
        }
    }

    /// Makes a domain, with a disk of `size` bytes, or that of its image, over the image's disk. `name` has been
    /// checked by the caller, as the names of domains are everywhere.
    pub fn create(
        &self,
        name: &str,
        record: &DomainRecord,
        size: Option<u64>,
    ) -> Result<Domain, DomainError> {
        create_directory(&self.root)?;
        // So that the image does not go meanwhile.
        let lock = self.store.lock()?;
        self.sweep_with(&lock);
        let target = self.root.join(name);
        if target.join(RECORD).exists() {
            return Err(DomainError::Taken(name.into()));
        }
        let draft = tempfile::Builder::new().prefix(DRAFT).tempdir_in(&self.root);
        let draft = draft.map_err(RecordError::io("create a directory in", &self.root))?;
        if let Some(id) = &record.image_id {
            let image = self.store.image(id)?;
            let disk = draft.path().join(DISK);
            let how = manage::Creation::default();
            let below = image.disk.to_string_lossy();
            manage::overlay(&disk, &below, Some(Format::Qcow2), size, &how)?;
        }
        record.save(&draft.path().join(RECORD))?;
        let held = hold(&draft.path().join(RECORD))?;
        fs::rename(draft.path(), &target).map_err(|e| match e.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => DomainError::Taken(name.into()),
            _ => RecordError::io("rename to", &target)(e).into(),
        })?;
        // It is there no more under this name.
        let _ = draft.keep();
        sync(&self.root)?;
        Ok(Domain {
            name: name.into(),
            record: record.clone(),
            directory: target,
            _held: Arc::new(held),
        })
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Result<Domain, DomainError> {
        let directory = self.root.join(name);
        let path = directory.join(RECORD);
        match hold(&path).and_then(|held| Ok((held, DomainRecord::load(&path)?))) {
            Ok((held, record)) => Ok(Domain {
                name: name.into(),
                record,
                directory,
                _held: Arc::new(held),
            }),
            Err(RecordError::Absent(_)) => Err(DomainError::Unknown(name.into())),
            Err(e) => Err(e.into()),
        }
    }

    /// Their names, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.entries();
        names.retain(|n| !n.starts_with('.'));
        names.sort();
        names
    }

    /// The names of those whose disks are overlays of an image. One whose record cannot be read may be.
    pub fn using(&self, image: &str) -> Vec<String> {
        let names = self.names().into_iter();
        let uses = |name: &String| match self.get(name) {
            Ok(domain) => domain.record.image_id.as_deref() == Some(image),
            Err(DomainError::Unknown(_)) => false,
            Err(_) => true,
        };
        names.filter(uses).collect()
    }

    /// Removes one that does not run, with all it has.
    pub fn remove(&self, name: &str) -> Result<(), DomainError> {
        let directory = self.root.join(name);
        if name.is_empty()
            || name.starts_with('.')
            || Path::new(name).components().count() != 1
            || !directory.is_dir()
        {
            return Err(DomainError::Unknown(name.into()));
        }
        // What is left of it if this is interrupted has no name any more.
        let gone = self.root.join(format!("{GONE}{}-{name}", std::process::id()));
        fs::rename(&directory, &gone).map_err(RecordError::io("rename", &directory))?;
        match fs::remove_dir_all(&gone) {
            // Somebody swept it.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            removed => Ok(removed.map_err(RecordError::io("remove", &gone))?),
        }
    }

    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        names.collect()
    }

    /// Removes what killed processes left: domains that were to go with their process, and what was half made or half
    /// removed.
    pub fn sweep(&self) -> Result<(), DomainError> {
        if self.root.exists() {
            self.sweep_with(&self.store.lock()?);
        }
        Ok(())
    }

    /// With the store's lock nobody makes a domain meanwhile. What cannot be removed now is tried again next time.
    fn sweep_with(&self, _lock: &StoreLock) {
        for name in self.entries() {
            if name.starts_with(DRAFT) || name.starts_with(GONE) {
                let _ = fs::remove_dir_all(self.root.join(name));
                continue;
            }
            let path = self.root.join(&name).join(RECORD);
            if !DomainRecord::load(&path).is_ok_and(|r| r.remove) {
                continue;
            }
            let Ok(file) = File::open(&path) else { continue };
            // Nobody gets it until it is gone.
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = self.remove(&name);
            }
        }
    }
}

/// Opens a domain's record, with a lock that goes with the file or the process: who has it uses the domain.
fn hold(record: &Path) -> Result<File, RecordError> {
    let file = File::open(record).map_err(|e| match e.kind() {
        ErrorKind::NotFound => RecordError::Absent(record.into()),
        _ => RecordError::io("open", record)(e),
    })?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockShared))
        .map_err(|e| RecordError::io("lock", record)(e.into()))?;
    // It may have been swept between the two.
    let links = file
        .metadata()
        .map_err(RecordError::io("examine", record))?
        .nlink();
    match links {
        0 => Err(RecordError::Absent(record.into())),
        _ => Ok(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ImageRecord, Kind, now};

    fn record(image_id: Option<String>) -> DomainRecord {
        DomainRecord {
            image: "x".into(),
            image_id,
            boot: Boot::Disk,
            append: None,
            cpus: 1,
            memory: 1 << 29,
            huge_pages: false,
            preallocate: false,
            cpu_model: "x".into(),
            engine: "auto".into(),
            translation_arena: 1 << 26,
            count_instructions: false,
            no_reboot: false,
            virtio_console: false,
            disks: vec![],
            pmems: vec![],
            file_systems: vec![],
            nets: vec![],
            vsock: None,
            shares: vec![],
            set_up: SetUp::Agent,
            user: None,
            remove: false,
            created: 0,
        }
    }

    #[test]
    fn a_domain_has_a_disk_over_its_images() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path());
        let draft = store.begin().unwrap();
        manage::create(&draft.disk(), 1 << 20, &manage::Creation::default()).unwrap();
        let id = "a".repeat(64);
        let image = ImageRecord {
            id: id.clone(),
            kind: Kind::System,
            source: String::new(),
            system: None,
            size: 1 << 20,
            cloud_init: false,
            created: now(),
        };
        let stored = draft.keep(image, "x").unwrap();
        let domains = Domains::of(&store);
        let web = domains
            .create("web", &record(Some(id.clone())), Some(1 << 21))
            .unwrap();
        let info = manage::info(&web.disk().unwrap(), None).unwrap();
        assert_eq!((info.len(), info[0].virtual_size), (2, 1 << 21));
        assert!(stored.disk.is_absolute());
        let taken = domains
            .create("web", &record(None), None)
            .unwrap_err()
            .to_string();
        assert!(taken.contains("donjon rm web"), "{taken}");
        domains.create("db", &record(None), None).unwrap();
        assert_eq!(
            (domains.names(), domains.using(&id)),
            (vec!["db".into(), "web".into()], vec!["web".into()])
        );
        assert_eq!(domains.get("web").unwrap().record, web.record);
        domains.remove("web").unwrap();
        assert!(
            domains.remove("web").is_err() && domains.remove("../x").is_err() && domains.remove("").is_err()
        );
        assert_eq!(domains.names(), ["db"]);
    }

    #[test]
    fn what_killed_processes_left_is_swept() {
        let directory = tempfile::tempdir().unwrap();
        let domains = Domains::of(&Store::at(directory.path()));
        let passing = DomainRecord {
            remove: true,
            ..record(None)
        };
        let made = domains.create("job", &passing, None).unwrap();
        drop(domains.create("web", &record(None), None).unwrap());
        let names = || {
            domains.sweep().unwrap();
            domains.names()
        };
        // From the beginning, and for each process that has it.
        assert_eq!(names(), ["job", "web"]);
        let found = domains.get("job").unwrap();
        drop(made);
        assert_eq!(names(), ["job", "web"]);
        drop(found);
        assert_eq!(names(), ["web"]);
        assert!(matches!(domains.get("job"), Err(DomainError::Unknown(_))));
        // Its name is free for the next one.
        for _ in 0..2 {
            drop(domains.create("job", &passing, None).unwrap());
        }
        for half in [".draft-x", ".gone-1-x"] {
            fs::create_dir(domains.root.join(half)).unwrap();
        }
        assert_eq!(names(), ["web"]);
        assert_eq!(domains.entries(), ["web"]);
    }

    #[test]
    fn many_sweep_while_one_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let domains = Domains::of(&Store::at(directory.path()));
        let passing = DomainRecord {
            remove: true,
            ..record(None)
        };
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        domains.sweep().unwrap();
                    }
                });
            }
            for _ in 0..50 {
                let made = domains.create("job", &passing, None).unwrap();
                let found = domains.get("job").unwrap();
                drop(made);
                let again = domains.get("job").unwrap();
                drop((found, again));
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
