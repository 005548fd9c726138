//! What an agent does to its machine. Tests have a machine that only writes down what it was told.

use donjon_agent_protocol::{Error, ErrorKind, FirstBoot, Shutdown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A machine.
pub trait System: Send + Sync + 'static {
    /// Where its root directory is.
    fn root(&self) -> &Path;
    /// Where the absolute path `path` of the guest lies.
    fn path(&self, path: &str) -> Result<PathBuf, Error> {
        path_in(self.root(), path)
    }
    /// Shuts it down.
    fn shutdown(&self, how: Shutdown) -> Result<(), Error>;
    /// Sets its clock, to so much time since 1970.
    fn set_time(&self, time: Duration) -> Result<(), Error>;
    /// Mounts a virtiofs share.
    fn mount(&self, tag: &str, path: &Path, read_only: bool) -> Result<(), Error>;
    /// Freezes its file systems, until what is returned is dropped.
    fn freeze(&self) -> Result<Box<dyn Frozen>, Error>;
    /// Gives it a name and a user.
    fn first_boot(&self, what: &FirstBoot) -> Result<(), Error>;
}

/// File systems that are frozen.
pub trait Frozen: Send {}

fn path_in(root: &Path, path: &str) -> Result<PathBuf, Error> {
    if path.contains('\0') {
        return Err(Error::new(ErrorKind::Invalid, "a path has a zero byte in it"));
    }
    match path.strip_prefix('/') {
        Some(rest) => {
            let mut whole = root.as_os_str().to_owned();
            if root != Path::new("/") {
                whole.push("/");
            }
            whole.push(rest);
            Ok(whole.into())
        }
        None => {
            let what = format!("the path {path:?} is not absolute; begin it with a slash");
            Err(Error::new(ErrorKind::Invalid, what))
        }
    }
}
