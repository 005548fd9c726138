//! The directory of running domains: one below it for each, with a lock that its process holds for as long as
//! it lives, and its socket. What a killed process left is known by its lock being free, and is swept.

use crate::name::Name;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOCK: &str = "lock";
const SOCKET: &str = "control.sock";
const VSOCK: &str = "vsock";

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No place for it.
    #[error(
        "no place for the sockets of domains: set one, for example `export XDG_RUNTIME_DIR=/run/user/$UID`"
    )]
    Nowhere,
    /// Others could reach domains through it.
    #[error(
        "{path} is not a directory of this user's own: look at it with `ls -ld {path}`, then `chmod 700 {path}`, or \
         use another: `export XDG_RUNTIME_DIR=/a/directory/of/yours`",
        path = .0.display()
    )]
    NotPrivate(PathBuf),
    /// A domain of that name runs.
    #[error("a domain named {0} runs already: look at it with `donjon stats {0}`, or choose another --name")]
    Taken(Name),
    /// A file operation failed.
    #[error(
        "cannot {what} {path}: {source}; use another directory: `export XDG_RUNTIME_DIR=/a/directory/of/yours`",
        path = path.display()
    )]
    Io {
        /// The verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunError {
    let path = path.to_owned();
    move |source| RunError::Io { what, path, source }
}

/// Why no running domain is meant by a word.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// None runs.
    #[error("no domain runs; start one: donjon run --name {0}")]
    NoneRuns(String),
    /// None of that name.
    #[error("no domain named {wanted} runs; there is: {}", list(.there))]
    NotThis {
        /// The word.
        wanted: String,
        /// Names there are.
        there: Vec<Name>,
    },
    /// Several begin like that.
    #[error("{} domains are meant by {wanted:?}: {}; say which, such as donjon stats {}", .there.len(), list(.there), .there[0])]
    Several {
        /// The word.
        wanted: String,
        /// Names it may mean.
        there: Vec<Name>,
    },
    /// The directory is not usable.
    #[error(transparent)]
    Run(#[from] RunError),
}

fn list(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// Where running domains have their directories.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    /// The user's: `$XDG_RUNTIME_DIR/donjon`, for root `/run/donjon`, else one inside `fallback`.
    pub fn of_user(fallback: Option<&Path>) -> Result<Self, RunError> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR");
        let root = rustix::process::geteuid().is_root();
        user_root(runtime, root, fallback)
            .map(Self::at)
            .ok_or(RunError::Nowhere)
    }

    /// The one at an absolute path, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The socket of a running domain.
    pub fn socket(&self, name: &Name) -> PathBuf {
        self.root.join(name.as_str()).join(SOCKET)
    }

    /// Where a running domain's guest is reached by vsock. The guest's connections to port `P` of the host go to the
    /// same path with `_P` behind it.
    pub fn vsock(&self, name: &Name) -> PathBuf {
        self.root.join(name.as_str()).join(VSOCK)
    }

    /// Where the switches of this user's domains are. No domain can be called that.
    pub fn switches(&self) -> PathBuf {
        self.root.join(".switches")
    }

    /// Takes a name for this process.
    pub fn claim(&self, name: &Name) -> Result<Claim, RunError> {
        private(&self.root)?;
        let directory = self.root.join(name.as_str());
        // Somebody may be sweeping what was left here, which takes no time.
        for _ in 0..50 {
            private(&directory)?;
            match lock(&directory) {
                Ok(Some(lock)) => {
                    return Ok(Claim {
                        directory,
                        name: name.clone(),
                        _lock: lock,
                    });
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(failed("lock", &directory)(e)),
            }
        }
        Err(RunError::Taken(name.clone()))
    }

    /// The names of running domains, in order.
    pub fn running(&self) -> Result<Vec<Name>, RunError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(failed("read", &self.root)(e)),
        };
        // Sockets in a directory of somebody else's are not to be trusted.
        check(&self.root)?;
        let mut names = vec![];
        for entry in entries.flatten() {
            let Some(name) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            match lock(&entry.path()) {
                Ok(None) => names.push(name),
                // Its process is gone.
                Ok(Some(lock)) => sweep(&entry.path(), lock),
                Err(_) => {}
            }
        }
        names.sort();
        Ok(names)
    }

    /// The running domain that a word means: its name, or the beginning of no other.
    pub fn find(&self, wanted: &str) -> Result<Name, FindError> {
        let names = self.running()?;
        if let Some(exact) = names.iter().find(|n| n.as_str() == wanted) {
            return Ok(exact.clone());
        }
        let (mut matching, others): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|n| n.as_str().starts_with(wanted));
        let wanted = wanted.to_owned();
        match matching.len() {
            1 => Ok(matching.remove(0)),
            0 if others.is_empty() => Err(FindError::NoneRuns(match wanted.parse::<Name>() {
                Ok(name) => name.to_string(),
                Err(_) => "NAME".into(),
            })),
            0 => Err(FindError::NotThis {
                wanted,
                there: others,
            }),
            _ => Err(FindError::Several {
                wanted,
                there: matching,
            }),
        }
    }
}

/// A name that belongs to this process. Dropped, it is free again.
#[derive(Debug)]
pub struct Claim {
    directory: PathBuf,
    name: Name,
    _lock: File,
}

impl Claim {
    /// The name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// See [`RunDirectory::vsock`].
    pub fn vsock(&self) -> PathBuf {
        self.directory.join(VSOCK)
    }

    pub(crate) fn listen(&self) -> io::Result<UnixListener> {
        let path = self.directory.join(SOCKET);
        // Left by a process that was killed.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(listener)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

fn user_root(runtime: Option<OsString>, root: bool, fallback: Option<&Path>) -> Option<PathBuf> {
    let runtime = runtime
        .map(PathBuf::from)
        .filter(|p| p.is_absolute() && p.is_dir());
    let run = || (root && Path::new("/run").is_dir()).then(|| PathBuf::from("/run"));
    runtime
        .or_else(run)
        .map(|p| p.join("donjon"))
        .or_else(|| fallback.map(|p| p.join("run")))
}

/// Makes a directory that only this user can enter, or finds one.
fn private(path: &Path) -> Result<(), RunError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => check(path),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(RunError::NotPrivate(path.to_owned())),
        Err(e) => Err(failed("create", path)(e)),
    }
}

/// Whether only this user can enter a directory.
fn check(path: &Path) -> Result<(), RunError> {
    let found = fs::symlink_metadata(path).map_err(failed("examine", path))?;
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if found.is_dir() && own && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(RunError::NotPrivate(path.to_owned()))
}

/// Takes the lock of a domain's directory; `None` if its process has it.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    let path = directory.join(LOCK);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))?);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    // It may have been swept between the two.
    let (there, here) = (fs::symlink_metadata(&path)?, file.metadata()?);
    if there.ino() != here.ino() {
        return Err(ErrorKind::NotFound.into());
    }
    Ok(Some(file))
}

/// Removes what a process left that is gone. The lock's holder only.
fn sweep(directory: &Path, lock: File) {
    remove(directory);
    drop(lock);
}

fn remove(directory: &Path) {
    // What cannot be removed is known to be stale all the same.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name() != LOCK {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_file(directory.join(LOCK));
    let _ = fs::remove_dir(directory);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn fresh() -> (tempfile::TempDir, RunDirectory) {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDirectory::at(directory.path().join("donjon"));
        (directory, run)
    }

    #[test]
    fn a_name_is_taken_once_and_free_again() {
        let (_directory, run) = fresh();
        assert_eq!(run.running().unwrap(), []);
        let claim = run.claim(&name("web")).unwrap();
        let error = run.claim(&name("web")).unwrap_err().to_string();
        assert!(error.contains("donjon stats web"), "{error}");
        assert_eq!(run.running().unwrap(), [name("web")]);
        drop(claim);
        assert_eq!(run.running().unwrap(), []);
        run.claim(&name("web")).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_is_swept() {
        let (_directory, run) = fresh();
        let left = run.root.join("web");
        private(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        drop(UnixListener::bind(left.join(SOCKET)).unwrap());
        assert_eq!(run.running().unwrap(), []);
        assert!(!left.exists());
        // Or taken over.
        private(&left).unwrap();
        drop(UnixListener::bind(left.join(SOCKET)).unwrap());
        run.claim(&name("web")).unwrap().listen().unwrap();
    }

    #[test]
    fn a_beginning_means_one_domain() {
        let (_directory, run) = fresh();
        let error = |wanted: &str| run.find(wanted).unwrap_err().to_string();
        assert_eq!(error("x"), "no domain runs; start one: donjon run --name x");
        assert!(error("../x").ends_with("--name NAME"));
        let _claims = ["web", "web-1", "db"].map(|n| run.claim(&name(n)).unwrap());
        assert_eq!(run.find("web").unwrap(), name("web"));
        assert_eq!(run.find("d").unwrap(), name("db"));
        assert!(error("we").contains("2 domains are meant by \"we\": web, web-1"));
        assert!(error("").contains("3 domains"));
        assert_eq!(error("x"), "no domain named x runs; there is: db, web, web-1");
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let (_directory, run) = fresh();
        private(&run.root).unwrap();
        fs::set_permissions(&run.root, Permissions::from_mode(0o755)).unwrap();
        let error = run.claim(&name("web")).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
        assert!(matches!(run.running(), Err(RunError::NotPrivate(_))));
        fs::remove_dir(&run.root).unwrap();
        std::os::unix::fs::symlink("/tmp", &run.root).unwrap();
        assert!(matches!(run.claim(&name("web")), Err(RunError::NotPrivate(_))));
    }

    #[test]
    fn many_claim_one_name_and_one_gets_it() {
        let (_directory, run) = fresh();
        for _ in 0..20 {
            let got: Vec<_> = std::thread::scope(|s| {
                let claims: Vec<_> = (0..4).map(|_| s.spawn(|| run.claim(&name("a")))).collect();
                claims.into_iter().map(|c| c.join().unwrap()).collect()
            });
            assert_eq!(got.iter().filter(|c| c.is_ok()).count(), 1);
        }
    }

    #[test]
    fn the_runtime_directory_comes_first() {
        let root = |runtime: &str, root, fallback: &str| {
            user_root(Some(runtime.into()), root, Some(Path::new(fallback)))
        };
        assert_eq!(root("/tmp", true, "/c"), Some("/tmp/donjon".into()));
        assert_eq!(root("/no/such", true, "/c"), Some("/run/donjon".into()));
        assert_eq!(root("tmp", false, "/c"), Some("/c/run".into()));
        assert_eq!(user_root(None, false, None), None);
    }
}
