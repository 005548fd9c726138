//! Directories of the host in guests.

use super::Attachment;
use donjon_fs::{Ids, Limits, Share as Directory, ShareError, ShareOptions};
use donjon_machine::pci::Function;
use donjon_memory::Ram;
use donjon_net::options::{Options, OptionsError, quoted};
use donjon_virtio::fs::{Fs, Tag};
use donjon_virtio::pci::VirtioPci;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// A directory that a domain's guest can mount by a tag.
///
/// As text: `DIR,tag=TAG[,ro][,uid=N][,gid=N][,name=NAME]`; a comma in a directory's name is written twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FsSpec {
    /// The directory.
    pub path: PathBuf,
    /// What the guest mounts it by: `mount -t virtiofs TAG DIR`.
    pub tag: Tag,
    /// The guest may not change anything.
    pub read_only: bool,
    /// Whom the user's files belong to in the guest.
    pub uid: Option<u32>,
    /// And their group.
    pub gid: Option<u32>,
    /// What people call it.
    pub name: Option<String>,
}

/// It does not say a directory.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FsSpecError {
    /// No directory, or no tag.
    #[error(
        "say which directory, and what the guest is to mount it by: DIR,tag=TAG[,ro][,uid=N][,gid=N][,name=NAME]"
    )]
    Missing,
    /// The list is wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Not a name.
    #[error("name={0}: a device's name has 1 to 32 letters, digits, - and _")]
    Name(String),
}

impl FromStr for FsSpec {
    type Err = FsSpecError;

    fn from_str(text: &str) -> Result<Self, FsSpecError> {
        let (path, rest) = super::split_path(text);
        if path.is_empty() {
            return Err(FsSpecError::Missing);
        }
        let mut options = Options::parse(rest.ok_or(FsSpecError::Missing)?)?;
        let spec = Self {
            path: path.into(),
            tag: options.parsed("tag")?.ok_or(FsSpecError::Missing)?,
            read_only: options.word("ro")?,
            uid: options.parsed("uid")?,
            gid: options.parsed("gid")?,
            name: options.value("name")?,
        };
        options.finish(&["tag", "ro", "uid", "gid", "name"])?;
        match &spec.name {
            Some(name) if super::check_name(name).is_err() => Err(FsSpecError::Name(name.clone())),
            _ => Ok(spec),
        }
    }
}

/// As [`FromStr`] reads it.
impl fmt::Display for FsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{},tag={}",
            quoted(&self.path.to_string_lossy()),
            quoted(&self.tag.to_string())
        )?;
        if self.read_only {
            f.write_str(",ro")?;
        }
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if let Some(id) = id {
                write!(f, ",{key}={id}")?;
            }
        }
        match &self.name {
            Some(name) => write!(f, ",name={name}"),
            None => Ok(()),
        }
    }
}

/// A directory of the host at a place in the guest's file system.
///
/// As text: `HOST:GUEST[:ro]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Share {
    /// The directory.
    pub host: PathBuf,
    /// Where it is in the guest: an absolute path of normal components.
    pub guest: String,
    /// The guest may not change anything.
    pub read_only: bool,
}

/// It does not say what is to be where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShareSpecError {
    /// Not two paths.
    #[error(
        "{0:?} does not say which directory is to be where in the guest: HOST:GUEST[:ro], such as ./data:/data"
    )]
    Missing(String),
    /// Something else behind them.
    #[error("{0:?} is none of ro and rw; there is: HOST:GUEST[:ro]")]
    Mode(String),
    /// Not a place.
    #[error("{0:?} is not an absolute path below the guest's root directory, such as /data")]
    Guest(String),
}

impl FromStr for Share {
    type Err = ShareSpecError;

    fn from_str(text: &str) -> Result<Self, ShareSpecError> {
        let mut parts = text.split(':');
        let (host, guest, mode) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(host), Some(guest), mode, None) if !host.is_empty() => (host, guest, mode),
            _ => return Err(ShareSpecError::Missing(text.into())),
        };
        let read_only = match mode {
            None | Some("rw") => false,
            Some("ro") => true,
            Some(mode) => return Err(ShareSpecError::Mode(mode.into())),
        };
        let components: Vec<_> = guest.split('/').filter(|c| !matches!(*c, "" | ".")).collect();
        let bad = !guest.starts_with('/') || components.is_empty() || components.contains(&"..");
        if bad || guest.contains('\0') {
            return Err(ShareSpecError::Guest(guest.into()));
        }
        Ok(Self {
            host: host.into(),
            guest: format!("/{}", components.join("/")),
            read_only,
        })
    }
}

/// As [`FromStr`] reads it.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.read_only { ":ro" } else { "" };
        write!(f, "{}:{}{mode}", self.host.display(), self.guest)
    }
}

impl Share {
    /// What the guest mounts it by: the same for the same place.
    pub fn tag(&self) -> Tag {
        // FNV-1a: paths are longer than a tag can be.
        let hash = self.guest.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        format!("donjon-{hash:016x}").parse().expect("it is short enough")
    }

    /// The device that shares it.
    pub fn device(&self) -> FsSpec {
        FsSpec {
            path: self.host.clone(),
            tag: self.tag(),
            read_only: self.read_only,
            uid: None,
            gid: None,
            name: None,
        }
    }
}

/// A shared directory over the life of its domain.
pub struct FsDevice {
    name: String,
    spec: FsSpec,
    directory: Arc<Directory>,
}

impl FsDevice {
    /// Opens the directory. `name` counts if the options have none.
    pub fn open(spec: &FsSpec, name: String) -> Result<Arc<Self>, ShareError> {
        let given = spec.uid.is_some() || spec.gid.is_some();
        let options = ShareOptions {
            read_only: spec.read_only,
            owner: given.then(|| Ids {
                uid: spec.uid.unwrap_or(0),
                gid: spec.gid.unwrap_or(0),
            }),
        };
        let directory = Directory::open(&spec.path, &options)?;
        // Guests keep many files open.
        Limits::raise_descriptors();
        Ok(Arc::new(Self {
            name: spec.name.clone().unwrap_or(name),
            spec: spec.clone(),
            directory,
        }))
    }
}

impl Attachment for FsDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "fs"
    }

    fn options(&self) -> String {
        self.spec.to_string()
    }

    fn function(&self, ram: &Arc<Ram>) -> Arc<dyn Function> {
        let limits = Limits::for_guest(ram.size());
        VirtioPci::new(Fs::new(&self.directory, &self.spec.tag, &limits), ram)
    }
}
