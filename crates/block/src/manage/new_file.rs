//! A file that appears under its name when it is complete.

use crate::chain::{Options, open_file};
use crate::error::OpenError;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file without its name yet. Dropped, it is gone.
pub(super) struct NewFile {
    file: NamedTempFile,
    path: PathBuf,
    force: bool,
}

impl NewFile {
    /// For `path`, which must not exist, or with `force` not be in use.
    pub(super) fn begin(path: &Path, force: bool) -> Result<Self, OpenError> {
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.is_file() {
                return Err(OpenError::Argument(format!(
                    "{} exists and is not an ordinary file; choose another name",
                    path.display()
                )));
            }
            if !force {
                return Err(OpenError::Exists(path.to_owned()));
            }
            open_file(path, &Options::default())?;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".part")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory(path));
        let file = file.map_err(OpenError::io("create", path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            force,
        })
    }

    /// Where it is meanwhile.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn file(&self) -> io::Result<File> {
        self.file.as_file().try_clone()
    }

    /// Gives it its name, for good.
    pub(super) fn finish(self) -> Result<(), OpenError> {
        let Self { file, path, force } = self;
        file.as_file().sync_all().map_err(OpenError::io("write", &path))?;
        let done = match force {
            true => file.persist(&path),
            false => file.persist_noclobber(&path),
        };
        done.map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => OpenError::Exists(path.clone()),
            _ => OpenError::io("create", &path)(e.error),
        })?;
        let directory = File::open(directory(&path)).and_then(|d| d.sync_all());
        directory.map_err(OpenError::io("write the directory of", &path))
    }
}

fn directory(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
