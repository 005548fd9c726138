//! Domains that outlive their processes: what each is, its disk and its console's output, in a directory of its own.

use crate::record::{Record, RecordError, create_directory, sync};
use crate::store::{Process, Store, StoreError};
use donjon_block::{Format, OpenError, manage};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const RECORD: &str = "domain.json";
const DISK: &str = "disk.qcow2";
const LOG: &str = "console.log";

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

/// One of them.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// What it is.
    pub record: DomainRecord,
    directory: PathBuf,
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
        let _lock = self.store.lock()?;
        let target = self.root.join(name);
        if target.join(RECORD).exists() {
            return Err(DomainError::Taken(name.into()));
        }
        let draft = tempfile::Builder::new().prefix(".draft-").tempdir_in(&self.root);
        let draft = draft.map_err(RecordError::io("create a directory in", &self.root))?;
        if let Some(id) = &record.image_id {
            let image = self.store.image(id)?;
            let disk = draft.path().join(DISK);
            let how = manage::Creation::default();
            let below = image.disk.to_string_lossy();
            manage::overlay(&disk, &below, Some(Format::Qcow2), size, &how)?;
        }
        record.save(&draft.path().join(RECORD))?;
        fs::rename(draft.path(), &target).map_err(|e| match e.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => DomainError::Taken(name.into()),
            _ => RecordError::io("rename to", &target)(e).into(),
        })?;
        // It is there no more under this name.
        let _ = draft.keep();
        sync(&self.root)?;
        self.get(name)
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Result<Domain, DomainError> {
        let directory = self.root.join(name);
        match DomainRecord::load(&directory.join(RECORD)) {
            Ok(record) => Ok(Domain {
                name: name.into(),
                record,
                directory,
            }),
            Err(RecordError::Absent(_)) => Err(DomainError::Unknown(name.into())),
            Err(e) => Err(e.into()),
        }
    }

    /// Their names, in order.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|n| !n.starts_with('.')).collect();
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
        let gone = self.root.join(format!(".gone-{}-{name}", std::process::id()));
        fs::rename(&directory, &gone).map_err(RecordError::io("rename", &directory))?;
        fs::remove_dir_all(&gone).map_err(RecordError::io("remove", &gone))?;
        Ok(())
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
}
