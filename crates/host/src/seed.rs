//! Disks that tell cloud-init what to do: its NoCloud data source, a FAT file system called CIDATA
//! (cloud-init's documentation, "Data sources", "NoCloud").

use crate::domains::User;
use crate::record::RecordError;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes of the disk.
const SIZE: u64 = 4 << 20;
/// Bytes of the user's data that fit.
const LIMIT: u64 = 2 << 20;

/// Why there is no such disk.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The data cannot be read.
    #[error("cannot read {path}: {cause}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// There is too much of it.
    #[error("{path} has more than {limit} MiB; cloud-init can fetch what is large by #include", path = .0.display(), limit = LIMIT >> 20)]
    Long(PathBuf),
    /// The disk cannot be written.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What cloud-init does if the user has no data for it: makes this user, who may log in with these keys and do everything
/// with sudo.
pub fn user_data(user: &User) -> Vec<u8> {
    // JSON is YAML.
    let data = serde_json::json!({
        "users": [{
            "name": user.name,
            "shell": "/bin/bash",
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "lock_passwd": true,
            "ssh_authorized_keys": user.ssh_keys,
        }],
    });
    format!("#cloud-config\n{data}\n").into_bytes()
}

/// The user's data in a file.
pub fn read(user_data: &Path) -> Result<Vec<u8>, SeedError> {
    let read = |cause| SeedError::Read {
        path: user_data.into(),
        cause,
    };
    if fs::metadata(user_data).map_err(read)?.len() > LIMIT {
        return Err(SeedError::Long(user_data.into()));
    }
    fs::read(user_data).map_err(read)
}

/// Writes the disk for an instance: the same name is the same instance, which cloud-init sets up once.
pub fn write(disk: &Path, user_data: &[u8], name: &str) -> Result<(), SeedError> {
    let meta = format!("instance-id: {name}\nlocal-hostname: {name}\n");
    let new = disk.with_extension("new");
    let written = fat(&new, &[("meta-data", meta.as_bytes()), ("user-data", user_data)]);
    written.map_err(RecordError::io("write", &new))?;
    fs::rename(&new, disk).map_err(RecordError::io("replace", disk))?;
    Ok(())
}

fn fat(path: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)?;
    file.set_len(SIZE)?;
    let options = fatfs::FormatVolumeOptions::new().volume_label(*b"CIDATA     ");
    fatfs::format_volume(&mut file, options)?;
    let volume = fatfs::FileSystem::new(&mut file, fatfs::FsOptions::new())?;
    for (name, content) in files {
        let mut file = volume.root_dir().create_file(name)?;
        file.truncate()?;
        file.write_all(content)?;
        file.flush()?;
    }
    volume.unmount()?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_disk_has_both_files_and_the_label() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("seed.img");
        let user = User {
            name: "ada".into(),
            ssh_keys: vec!["ssh-ed25519 AAAA \"ada\"".into()],
        };
        write(&disk, &user_data(&user), "web").unwrap();
        let volume = fatfs::FileSystem::new(File::open(&disk).unwrap(), fatfs::FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label(), "CIDATA");
        let read = |name| {
            let mut text = String::new();
            let mut file = volume.root_dir().open_file(name).unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        };
        let text = read("user-data");
        let json = text.strip_prefix("#cloud-config\n").unwrap();
        let data: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(
            data["users"][0]["ssh_authorized_keys"][0],
            "ssh-ed25519 AAAA \"ada\""
        );
        assert!(read("meta-data").contains("local-hostname: web\n"));
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("user");
        let error = || read(&data).unwrap_err().to_string();
        assert!(error().contains("cannot read"));
        File::create(&data).unwrap().set_len(LIMIT + 1).unwrap();
        assert!(error().contains("#include"));
    }
}
