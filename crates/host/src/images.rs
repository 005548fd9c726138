//! Images that domains boot from. So far the built-in one, [`tiny()`].

mod apt;
pub mod container;
mod cpio;
mod deb;
pub mod debian;
mod disk;
pub mod download;
pub mod import;
mod modinfo;
mod modules;
mod rootfs;
mod tiny;
mod unpack;

pub use apt::Complaint;
pub(crate) use cpio::Newc;
pub use deb::DebError;
pub use disk::DiskError;
pub use modinfo::NotAModule;
pub(crate) use modinfo::normal_name;
pub use modules::ModuleError;
pub use tiny::Tiny;
pub(crate) use unpack::Compression;

use crate::cache::{Cache, CacheError};
use crate::initramfs::CONTAINER_MODULES;
use crate::progress::Progress;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// A kernel and what it starts with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootImage {
    /// A bzImage.
    pub kernel: PathBuf,
    /// A newc cpio archive.
    pub initrd: PathBuf,
    /// What is in it, for people: package names and versions.
    pub version: String,
}

/// The built-in image: Debian's stock cloud kernel with a small busybox user space, made on first use from
/// packages that the host's apt downloads, and kept in the user's cache. `progress` hears of nothing if it is
/// there already.
pub fn tiny(progress: &dyn Progress) -> Result<BootImage, ImageError> {
    Tiny::new(Cache::of_user()?, vec!["apt-get".into()]).image(progress)
}

/// The kernel of the image `tiny`, with the modules that a container's guest needs. It is kept like that image, and made
/// from the same packages.
pub fn container_kernel(progress: &dyn Progress) -> Result<KernelWithModules, ImageError> {
    kernel_with("container", CONTAINER_MODULES, progress)
}

/// The kernel of the image `tiny`, with other modules and what those need. It is kept under the name `what`, and made
/// from the same packages.
pub fn kernel_with(
    what: &str,
    modules: &[&str],
    progress: &dyn Progress,
) -> Result<KernelWithModules, ImageError> {
    Tiny::new(Cache::of_user()?, vec!["apt-get".into()]).kernel_with(what, modules, progress)
}

/// A kernel without a system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelWithModules {
    /// A bzImage.
    pub kernel: PathBuf,
    /// A newc cpio archive of its modules: see [`crate::initramfs`].
    pub modules: PathBuf,
    /// Their names, in the order in which they are to be inserted.
    pub order: Vec<String>,
}

/// The way out of every failure here.
const OWN_KERNEL: &str = "or boot a kernel of your own: `donjon run --kernel FILE --initrd FILE`";

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The host is not a Debian.
    #[error(
        "the built-in image `tiny` is made from Debian packages, and there is no {} on this host: boot a kernel \
         of your own: `donjon run --kernel FILE --initrd FILE`, or copy ~/.cache/donjon from a Debian host that \
         has run `donjon run`",
        program.display()
    )]
    NoApt {
        /// What was looked for.
        program: OsString,
    },
    /// apt could not be started for another reason.
    #[error("cannot run {}: {source}; see whether `{} --version` works, {OWN_KERNEL}", program.display(), program.display())]
    Spawn {
        /// The program.
        program: OsString,
        /// Why.
        source: io::Error,
    },
    /// apt's configuration syntax has no way to write this path.
    #[error(
        "the cache's path {path:?} has a quote or a control character in it, which apt cannot take: \
         `export XDG_CACHE_HOME=/another/path`"
    )]
    OddPath {
        /// The path.
        path: PathBuf,
    },
    /// The packages could not be had.
    #[error(
        "cannot download the packages for the image `tiny`: this failed:\n  {command}\n{said}\n\
         To fix it, {advice}, {OWN_KERNEL}",
        command = complaint.command, said = indented(&complaint.said), advice = complaint.advice()
    )]
    Apt {
        /// What failed and how.
        complaint: Complaint,
    },
    /// A package is not what was expected.
    #[error(
        "the package {package} cannot be used: {source}; remove {dir} and run the command again to download it \
         anew, {OWN_KERNEL}", dir = dir.display()
    )]
    Package {
        /// Its name.
        package: String,
        /// Where it is.
        dir: PathBuf,
        /// Why not.
        source: PackageError,
    },
}

impl ImageError {
    fn package(package: &str, dir: PathBuf, source: impl Into<PackageError>) -> Self {
        Self::Package {
            package: package.to_owned(),
            dir,
            source: source.into(),
        }
    }
}

/// What is wrong with a package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// It cannot be read.
    #[error(transparent)]
    Deb(#[from] DebError),
    /// It lacks something.
    #[error("{0}")]
    Layout(String),
    /// Its modules do not fit together.
    #[error(transparent)]
    Modules(#[from] ModuleError),
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|l| format!("  {l}"))
        .collect::<Vec<_>>()
        .join("\n")
}
