//! Where something goes.

use super::{CopyError, Kind, Source};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Where something goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Into this directory, which is made if it is missing.
    Directory(PathBuf),
    /// It is to be this file, or symbolic link, in a directory that there is.
    File(PathBuf),
}

/// Where `source` goes if it is copied to `destination`.
///
/// An existing directory gets it under its own name, or its contents if those were asked for. Any other destination
/// is its new name.
pub fn target(destination: &Path, source: &Source) -> Result<Target, CopyError> {
    let directory = source.kind == Kind::Directory;
    let slash = destination.as_os_str().as_bytes().ends_with(b"/");
    match fs::metadata(destination) {
        Ok(m) if m.is_dir() => {
            if directory && source.contents {
                return Ok(Target::Directory(destination.into()));
            }
            let inside = destination.join(checked(&source.name)?);
            Ok(if directory {
                Target::Directory(inside)
            } else {
                Target::File(inside)
            })
        }
        Ok(_) if directory || slash => Err(CopyError::NotDirectory(destination.into())),
        // What a symbolic link leads to is replaced, not the link.
        Ok(_) => fs::canonicalize(destination)
            .map(Target::File)
            .map_err(CopyError::file("find", destination)),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if directory {
                Ok(Target::Directory(destination.into()))
            } else if slash {
                Err(CopyError::NoDirectory(destination.into()))
            } else {
                Ok(Target::File(destination.into()))
            }
        }
        Err(e) if e.kind() == ErrorKind::NotADirectory => Err(CopyError::NotDirectory(destination.into())),
        Err(e) => Err(CopyError::file("find", destination)(e)),
    }
}

/// The name, if it is one.
fn checked(name: &str) -> Result<&OsStr, CopyError> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(only)), None) if only == name && !name.contains('\0') => Ok(only),
        _ => Err(CopyError::Name(name.into())),
    }
}
