//! Booting the operating system that is on a disk, without its boot loader: its newest kernel is read from its file
//! system by the host, together with the modules that the kernel needs to get at its root file system.
//!
//! The disk's content is the guest's and is believed nothing: sizes are bounded, and what does not fit ends in a
//! [`DiskBootError`].

mod files;
mod kernels;
mod modules;
mod partitions;

pub use partitions::Place;

use donjon_block::Image;
use files::Files;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the host cannot boot a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskBootError {
    /// The image cannot be read.
    #[error("cannot read {path}: {cause}; see what is wrong with it: `donjon disk check {path}`", path = .path.display())]
    Read {
        /// The image.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// No file system that could be it.
    #[error(
        "there is no system with a kernel on {path}: {why}. The host reads ext2, ext3 and ext4, on the whole disk or in \
         a partition; boot another one by naming its kernel: `donjon run --kernel FILE --initrd FILE --disk {path}`",
        path = .path.display()
    )]
    NoSystem {
        /// The image.
        path: PathBuf,
        /// What was looked at.
        why: String,
    },
    /// Something of the system is not as it should be.
    #[error(
        "cannot boot the system on {path}: {what}; boot it with a kernel of your own: `donjon run --kernel FILE \
         --initrd FILE --disk {path}`",
        path = .path.display()
    )]
    System {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// A system on a disk.
pub struct System {
    /// The kernel, as it is there.
    pub kernel: Vec<u8>,
    /// Its release, such as `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// Where the root file system is.
    pub root: Place,
    /// The root file system's type.
    pub file_system: &'static str,
    /// What the system calls itself (PRETTY_NAME of os-release).
    pub name: Option<String>,
    /// Whether it has cloud-init.
    pub cloud_init: bool,
    /// Modules to load, in this order: file name and content, unpacked.
    pub modules: Vec<(String, Vec<u8>)>,
}

/// Finds the system on a disk. `wanted` names the modules to take along, with what they depend on, if the kernel has
/// them as modules.
pub fn find(image: &Arc<Image>, wanted: &[&str]) -> Result<System, DiskBootError> {
    let path = || image.path().to_owned();
    let places = partitions::places(image).map_err(|cause| DiskBootError::Read { path: path(), cause })?;
    let mut looked = vec![];
    let mut file_systems = vec![];
    for place in places {
        match Files::open(image, &place) {
            Ok(files) => file_systems.push((place, files)),
            Err(why) => looked.push(format!("{place}: {why}")),
        }
    }
    let no_system = |why: String| DiskBootError::NoSystem { path: path(), why };
    let Some(at) = file_systems.iter().position(|(_, files)| files.is_root()) else {
        looked.extend(
            file_systems
                .iter()
                .map(|(place, _)| format!("{place}: no /etc and /usr")),
        );
        return Err(no_system(looked.join("; ")));
    };
    let (place, root) = &file_systems[at];
    // A kernel is in /boot, or at the top of a partition that is mounted there.
    let others = file_systems.iter().enumerate().filter(|(i, _)| *i != at);
    let kernels = std::iter::once((root, "/boot")).chain(others.map(|(_, (_, files))| (files, "/")));
    let newest = kernels
        .flat_map(|(files, directory)| {
            kernels::there(files, directory)
                .into_iter()
                .map(move |k| (files, k))
        })
        .max_by(|(_, a), (_, b)| kernels::order(&a.release, &b.release));
    let Some((files, newest)) = newest else {
        return Err(no_system(format!(
            "{place} has a system, but there is no /boot/vmlinuz-VERSION"
        )));
    };
    let system = |what: String| DiskBootError::System { path: path(), what };
    let kernel = files.read(&newest.path, kernels::KERNEL_LIMIT).map_err(system)?;
    let modules = modules::load(root, &newest.release, wanted).map_err(system)?;
    Ok(System {
        kernel,
        release: newest.release,
        root: place.clone(),
        file_system: "ext4",
        name: root.os_name(),
        cloud_init: root.has("/etc/cloud/cloud.cfg"),
        modules,
    })
}

#[cfg(test)]
mod tests;
