//! The directory for what can be made again: downloads and images built from them.

mod sealed;

pub use sealed::{Draft, Sealed, Unsealed};

use rustix::fs::FlockOperation;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// No environment variable says where it is.
    #[error(
        "no place for the cache: neither XDG_CACHE_HOME nor HOME is an absolute path; \
         set one, for example `export XDG_CACHE_HOME=/var/tmp/$USER`"
    )]
    NoHome,
    /// The disk is full.
    #[error(
        "no space left for {path} (its file system has {free} MiB free{needs}): free some (`df -h {dir}`), or put \
         the cache on another disk: `export XDG_CACHE_HOME=/path/on/that/disk`",
        path = path.display(), dir = path.parent().unwrap_or(path).display(),
        needs = needed.map(|n| format!(", {n} MiB are needed")).unwrap_or_default()
    )]
    Full {
        /// What did not fit.
        path: PathBuf,
        /// Free space, MiB.
        free: u64,
        /// Space that the operation takes, MiB, if that is known.
        needed: Option<u64>,
    },
    /// A file operation failed.
    #[error(
        "cannot {what} {path}: {source}; check it with `ls -ld {path}`, or use another directory: \
         `export XDG_CACHE_HOME=/path/you/can/write`",
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

impl CacheError {
    /// The error of a failed file operation; a full disk gets its own kind.
    pub fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let free = free_space(&path).unwrap_or(0) >> 20;
                Self::Full {
                    path,
                    free,
                    needed: None,
                }
            }
            _ => Self::Io { what, path, source },
        }
    }
}

/// A cache directory. Any number of processes may use it at once.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's: `$XDG_CACHE_HOME/donjon`, or `~/.cache/donjon` (XDG Base Directory Specification 0.8; a
    /// relative path counts as unset).
    pub fn of_user() -> Result<Self, CacheError> {
        let root = user_root(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"));
        Ok(Self::at(root.ok_or(CacheError::NoHome)?))
    }

    /// The one at `root`, which need not exist yet and must be an absolute path.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path below it.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Makes the directory.
    pub fn create(&self) -> Result<(), CacheError> {
        fs::create_dir_all(&self.root).map_err(CacheError::io("create", &self.root))
    }

    /// Refuses if fewer than `needed` bytes are free for an ordinary user.
    pub fn require_space(&self, needed: u64) -> Result<(), CacheError> {
        let free = free_space(&self.root).map_err(CacheError::io("examine", &self.root))?;
        if free < needed {
            return Err(CacheError::Full {
                path: self.root.clone(),
                free: free >> 20,
                needed: Some(needed.div_ceil(1 << 20)),
            });
        }
        Ok(())
    }

    /// Takes the cache's lock, which every process that changes it holds. `waiting` is called if another
    /// process has it. The lock goes with the returned value, or with the process.
    pub fn lock(&self, waiting: impl FnOnce()) -> Result<CacheLock, CacheError> {
        self.create()?;
        let path = self.path("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path);
        let file = file.map_err(CacheError::io("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(CacheLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => waiting(),
            Err(e) => return Err(CacheError::io("lock", &path)(e.into())),
        }
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .map_err(|e| CacheError::io("lock", &path)(e.into()))?;
        Ok(CacheLock { _file: file })
    }

    /// Removes what a killed process left half done. Only for the holder of the lock.
    pub fn sweep(&self, _lock: &CacheLock) {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return;
        };
        for entry in entries.flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(sealed::DRAFT_PREFIX)
            {
                // What cannot be removed now is tried again next time.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// The cache's lock, held.
#[derive(Debug)]
pub struct CacheLock {
    _file: File,
}

/// Bytes an ordinary user may still write on the file system that has, or will have, `path`.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn user_root(xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |v: Option<OsString>| v.map(PathBuf::from).filter(|p| p.is_absolute());
    absolute(xdg)
        .or_else(|| absolute(home).map(|h| h.join(".cache")))
        .map(|p| p.join("donjon"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_cache_follows_the_xdg_rules() {
        let root =
            |xdg: Option<&str>, home: Option<&str>| user_root(xdg.map(Into::into), home.map(Into::into));
        assert_eq!(root(Some("/c"), Some("/h")), Some("/c/donjon".into()));
        assert_eq!(root(None, Some("/h")), Some("/h/.cache/donjon".into()));
        assert_eq!(
            root(Some("relative"), Some("/h")),
            Some("/h/.cache/donjon".into())
        );
        assert_eq!(root(Some(""), Some("")), None);
        assert_eq!(root(None, None), None);
    }

    #[test]
    fn the_lock_keeps_others_out_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("new"));
        let lock = cache.lock(|| panic!("nobody has it")).unwrap();
        std::thread::scope(|s| {
            let (say, hear) = std::sync::mpsc::channel();
            let cache = &cache;
            s.spawn(move || cache.lock(|| say.send(()).unwrap()).unwrap());
            hear.recv().unwrap();
            drop(lock);
        });
    }

    #[test]
    fn missing_space_and_missing_rights_name_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let full = Cache::at(dir.path().join("x"))
            .require_space(u64::MAX)
            .unwrap_err()
            .to_string();
        assert!(
            full.contains("MiB are needed") && full.contains("XDG_CACHE_HOME"),
            "{full}"
        );
        fs::write(dir.path().join("file"), "").unwrap();
        let full = CacheError::io("write", dir.path())(io::ErrorKind::StorageFull.into()).to_string();
        assert!(full.contains("MiB free): free some"), "{full}");
        let blocked = Cache::at(dir.path().join("file/below"))
            .create()
            .unwrap_err()
            .to_string();
        assert!(
            blocked.contains("cannot create") && blocked.contains("file/below"),
            "{blocked}"
        );
    }
}
