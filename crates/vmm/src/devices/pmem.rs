//! Files as persistent memory.

use super::Attachment;
use donjon_block::{OpenError, open_content};
use donjon_machine::pci::Function;
use donjon_memory::{MemoryFile, Ram};
use donjon_net::options::{Options, OptionsError, quoted};
use donjon_virtio::pci::VirtioPci;
use donjon_virtio::pmem::{ALIGNMENT, Pmem};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// A domain's persistent memory.
///
/// As text: `FILE[,ro][,name=NAME]`; a comma in a file's name is written twice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PmemSpec {
    /// The file, of whole 2 MiB.
    pub path: PathBuf,
    /// The guest may not write.
    pub read_only: bool,
    /// What people call it.
    pub name: Option<String>,
}

/// It does not say persistent memory.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PmemSpecError {
    /// No file.
    #[error("say which file: FILE[,ro][,name=NAME]")]
    NoFile,
    /// The list is wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Not a name.
    #[error("name={0}: a device's name has 1 to 32 letters, digits, - and _")]
    Name(String),
}

impl FromStr for PmemSpec {
    type Err = PmemSpecError;

    fn from_str(text: &str) -> Result<Self, PmemSpecError> {
        let (path, rest) = super::split_path(text);
        if path.is_empty() {
            return Err(PmemSpecError::NoFile);
        }
        let mut spec = Self {
            path: path.into(),
            ..Self::default()
        };
        if let Some(rest) = rest {
            let mut options = Options::parse(rest)?;
            spec.read_only = options.word("ro")?;
            spec.name = options.value("name")?;
            options.finish(&["ro", "name"])?;
        }
        match &spec.name {
            Some(name) if super::check_name(name).is_err() => Err(PmemSpecError::Name(name.clone())),
            _ => Ok(spec),
        }
    }
}

/// As [`FromStr`] reads it.
impl fmt::Display for PmemSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.path.to_string_lossy()))?;
        if self.read_only {
            f.write_str(",ro")?;
        }
        match &self.name {
            Some(name) => write!(f, ",name={name}"),
            None => Ok(()),
        }
    }
}

/// Why persistent memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PmemError {
    /// There is no such file.
    #[error("{file} does not exist; make it: truncate -s 1G {file}", file = .0.display())]
    Missing(PathBuf),
    /// It cannot be opened.
    #[error(transparent)]
    Open(OpenError),
    /// It cannot be looked at.
    #[error("cannot examine {file}: {cause}", file = .file.display())]
    Examine {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It is a block device.
    #[error("{file} is not a regular file; use it as a disk: --disk {file}", file = .0.display())]
    NotAFile(PathBuf),
    /// There is nothing in it.
    #[error("{file} is empty; give it a size: truncate -s 1G {file}", file = .0.display())]
    Empty(PathBuf),
    /// Guests would refuse it.
    #[error(
        "{file} has {size} bytes, and guests take persistent memory only in whole 2 MiB; lengthen it: truncate -s %2M {file}",
        file = .file.display()
    )]
    Size {
        /// The file.
        file: PathBuf,
        /// Bytes.
        size: u64,
    },
}

/// Persistent memory over the life of its domain.
pub struct PmemDevice {
    name: String,
    spec: PmemSpec,
    file: MemoryFile,
}

impl PmemDevice {
    /// Opens the file, and keeps others from writing to it. `name` counts if the options have none.
    pub fn open(spec: &PmemSpec, name: String) -> Result<Arc<Self>, PmemError> {
        let path = || spec.path.clone();
        let file = open_content(&spec.path, spec.read_only).map_err(|e| match e {
            OpenError::Missing(file) => PmemError::Missing(file),
            e => PmemError::Open(e),
        })?;
        let found = file
            .metadata()
            .map_err(|cause| PmemError::Examine { file: path(), cause })?;
        let size = match found.len() {
            _ if !found.is_file() => return Err(PmemError::NotAFile(path())),
            0 => return Err(PmemError::Empty(path())),
            size if !size.is_multiple_of(ALIGNMENT) => return Err(PmemError::Size { file: path(), size }),
            size => size,
        };
        Ok(Arc::new(Self {
            name: spec.name.clone().unwrap_or(name),
            spec: spec.clone(),
            file: MemoryFile {
                file: Arc::new(file),
                len: size,
                read_only: spec.read_only,
            },
        }))
    }
}

impl Attachment for PmemDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "pmem"
    }

    fn options(&self) -> String {
        self.spec.to_string()
    }

    fn file(&self) -> Option<MemoryFile> {
        Some(self.file.clone())
    }

    fn function(&self, ram: &Arc<Ram>) -> Arc<dyn Function> {
        let pmem = Pmem::new(&self.file.file, ram).expect("its file is memory of every machine it is in");
        VirtioPci::new(pmem, ram)
    }
}
