//! Why a domain cannot be booted from the files it was given.

use super::image::Role;
use donjon_memory::MemoryError;
use std::path::PathBuf;

/// Why a domain cannot be booted. [`BootError::fix`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file cannot be opened or read.
    #[error("cannot read {role} {}: {cause}", path.display())]
    Read {
        /// Which file.
        role: Role,
        /// Its name.
        path: PathBuf,
        /// What the host said.
        cause: std::io::Error,
    },
    /// A directory, a pipe, a device …
    #[error("{role} {} is {what}, not a file", path.display())]
    NotAFile {
        /// Which file.
        role: Role,
        /// Its name.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// No bytes in it.
    #[error("{role} {} is empty", path.display())]
    Empty {
        /// Which file.
        role: Role,
        /// Its name.
        path: PathBuf,
    },
    /// Neither a bzImage nor an ELF with a PVH note.
    #[error("kernel {} is {found}; expected a bzImage or an ELF vmlinux with a PVH note", path.display())]
    WrongKind {
        /// Its name.
        path: PathBuf,
        /// What it looks like.
        found: String,
        /// What to do.
        fix: String,
    },
    /// The file ends before what its header promises.
    #[error("kernel {} is cut short: {what} needs {needed} bytes, the file has {have}", path.display())]
    Truncated {
        /// Its name.
        path: PathBuf,
        /// The part that is missing.
        what: String,
        /// Bytes the file must have.
        needed: u64,
        /// Bytes it has.
        have: u64,
    },
    /// A header field or a checksum is impossible.
    #[error("kernel {} is damaged: {what}", path.display())]
    Damaged {
        /// Its name.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The domain's memory cannot hold it.
    #[error("{what} needs {} of guest memory, the domain has {}", mib(*needed), mib(*have))]
    Memory {
        /// Kernel, or kernel and initrd.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        have: u64,
    },
    /// The initrd does not fit below the address up to which the kernel can read it.
    #[error("initrd {} of {} bytes does not fit between the kernel and {limit:#x}", path.display(), len)]
    InitrdSize {
        /// Its name.
        path: PathBuf,
        /// Its size.
        len: u64,
        /// The first address the kernel cannot read it from.
        limit: u64,
    },
    /// Too long, or with a NUL byte.
    #[error("the kernel command line {0}")]
    CommandLine(String),
    /// A boot structure outside guest RAM.
    #[error(transparent)]
    Ram(#[from] MemoryError),
}

impl BootError {
    /// What the user can do about it.
    pub fn fix(&self) -> String {
        match self {
            Self::Read { role, path, cause } => match cause.kind() {
                std::io::ErrorKind::NotFound => {
                    format!("check the name: ls -l {}; the kernels installed here: ls /boot/vmlinuz*", path.display())
                }
                std::io::ErrorKind::PermissionDenied => format!(
                    "copy it to a file you may read: sudo install -m 644 {} ./{role} && donjon run {} ./{role} …",
                    path.display(),
                    role.flag()
                ),
                _ => format!("check the file: ls -l {}", path.display()),
            },
            Self::NotAFile { role, path, .. } => {
                format!("name a regular file with {}: ls -l {}", role.flag(), path.display())
            }
            Self::Empty { role, .. } => format!("copy the file again, or name another with {}", role.flag()),
            Self::WrongKind { fix, .. } => fix.clone(),
            Self::Truncated { .. } | Self::Damaged { .. } => {
                "copy or download the file again and compare checksums (sha256sum); Debian's own kernel: donjon run"
                    .into()
            }
            // What it takes to load is not enough to run.
            Self::Memory { needed, .. } => {
                let roomy = needed.saturating_add(64 << 20).checked_next_power_of_two().unwrap_or(*needed);
                format!("give the domain more: --memory {}", mib(roomy))
            }
            Self::InitrdSize { .. } => {
                "use a smaller initrd (only the modules needed to reach the root disk)".into()
            }
            Self::CommandLine(_) => "shorten or correct the string given with --append".into(),
            Self::Ram(_) => "give the domain more memory: --memory 512M".into(),
        }
    }
}

/// A size as `--memory` takes it, rounded up to whole MiB.
fn mib(bytes: u64) -> String {
    format!("{}M", bytes.div_ceil(1 << 20))
}
