//! A directory of files that is either whole and unchanged, or not there.
//!
//! It is written under another name, with a manifest that has the SHA-256 of every file, made durable and
//! renamed into place. Whoever opens it later checks every byte, so a torn write, a bad disk or a curious
//! hand shows up as "not there", and it is made again.

use super::{Cache, CacheError};
use crate::record::hex;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Unfinished directories begin with this.
pub(super) const DRAFT_PREFIX: &str = ".draft-";
const MANIFEST: &str = "MANIFEST";
const MAGIC: &str = "donjon-sealed 1";
/// A manifest is a few lines; anything longer is not one.
const MANIFEST_LIMIT: u64 = 64 << 10;

/// A directory that was whole when it was opened.
#[derive(Debug)]
pub struct Sealed {
    dir: PathBuf,
    note: String,
    files: Vec<String>,
}

/// Why there is no [`Sealed`] directory at a path.
#[derive(Debug, thiserror::Error)]
pub enum Unsealed {
    /// Never made.
    #[error("there is no {}", .0.display())]
    Absent(PathBuf),
    /// Damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file at fault.
        path: PathBuf,
        /// How.
        reason: String,
    },
}

impl Sealed {
    /// Opens the directory at `path` if all of it is as it was sealed.
    pub fn open(path: &Path) -> Result<Self, Unsealed> {
        let manifest = path.join(MANIFEST);
        let damaged = |path: &Path, reason: String| Unsealed::Damaged {
            path: path.to_owned(),
            reason,
        };
        let text = match read_limited(&manifest, MANIFEST_LIMIT) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Unsealed::Absent(path.to_owned())),
            Err(e) => return Err(damaged(&manifest, e.to_string())),
        };
        let (note, files) = parse(&text).ok_or_else(|| damaged(&manifest, "not a manifest".into()))?;
        for file in &files {
            let at = path.join(&file.name);
            let (size, sum) = sum(&at).map_err(|e| damaged(&at, e.to_string()))?;
            if size != file.size {
                return Err(damaged(&at, format!("{size} bytes instead of {}", file.size)));
            }
            if sum != file.sum {
                return Err(damaged(&at, "its SHA-256 has changed".into()));
            }
        }
        Ok(Self {
            dir: path.to_owned(),
            note,
            files: files.into_iter().map(|f| f.name).collect(),
        })
    }

    /// The line its maker left.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        self.files.iter().any(|f| f == name).then(|| self.dir.join(name))
    }
}

/// A directory being filled. Dropped before [`Draft::seal`], it disappears.
#[derive(Debug)]
pub struct Draft {
    dir: tempfile::TempDir,
}

impl Draft {
    /// An empty one inside the cache's own directory, so that it can be renamed to any place there.
    pub fn new(cache: &Cache) -> Result<Self, CacheError> {
        cache.create()?;
        let mut builder = tempfile::Builder::new();
        // As readable as the owner's umask lets it be: nothing in a cache is secret.
        let builder = builder
            .prefix(DRAFT_PREFIX)
            .permissions(fs::Permissions::from_mode(0o777));
        let dir = builder.tempdir_in(cache.root());
        Ok(Self {
            dir: dir.map_err(CacheError::io("create a directory in", cache.root()))?,
        })
    }

    /// Where the files go: directly inside, no directories.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Seals what is in it and moves it to `target`, in place of what may be there. `note` is one line.
    pub fn seal(self, target: &Path, note: &str) -> Result<Sealed, CacheError> {
        let manifest = self.path().join(MANIFEST);
        let listing = fs::read_dir(self.path()).and_then(|entries| {
            entries
                .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
                .collect()
        });
        let mut names: Vec<String> = listing.map_err(CacheError::io("list", self.path()))?;
        names.sort();
        let mut text = format!("{MAGIC}\nnote {}\n", note.replace('\n', " "));
        for name in &names {
            let path = self.path().join(name);
            let (size, sum) = sum(&path).map_err(CacheError::io("read", &path))?;
            writeln!(text, "{sum} {size} {name}").expect("a String takes everything");
            sync(&path)?;
        }
        let end = hex(&Sha256::digest(text.as_bytes()));
        writeln!(text, "end {end}").expect("a String takes everything");
        let mut file = File::create(&manifest).map_err(CacheError::io("create", &manifest))?;
        file.write_all(text.as_bytes())
            .map_err(CacheError::io("write", &manifest))?;
        sync(&manifest)?;
        sync(self.path())?;

        let parent = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(CacheError::io("create", parent))?;
        if target.symlink_metadata().is_ok() {
            // Not emptied in place: a reader that has just checked the old one must not find half of it.
            let mut old = self.dir.path().as_os_str().to_owned();
            old.push("-old");
            fs::rename(target, &old).map_err(CacheError::io("move away", target))?;
            let old = Path::new(&old);
            if fs::remove_dir_all(old).or_else(|_| fs::remove_file(old)).is_err() {
                tracing::warn!(path = %old.display(), "could not remove the old cache entry");
            }
        }
        let draft = self.dir.keep();
        fs::rename(&draft, target).map_err(|e| {
            let _ = fs::remove_dir_all(&draft);
            CacheError::io("rename a finished directory to", target)(e)
        })?;
        sync(parent)?;
        Ok(Sealed {
            dir: target.to_owned(),
            note: note.replace('\n', " "),
            files: names,
        })
    }
}

struct Line {
    sum: String,
    size: u64,
    name: String,
}

/// The note and the files of a manifest; `None` if it is not one.
fn parse(text: &str) -> Option<(String, Vec<Line>)> {
    let body_len = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (body, last) = text.split_at(body_len);
    if last.strip_suffix('\n')?.strip_prefix("end ")? != hex(&Sha256::digest(body.as_bytes())) {
        return None;
    }
    let mut lines = body.lines();
    if lines.next()? != MAGIC {
        return None;
    }
    let note = lines.next()?.strip_prefix("note ")?.to_owned();
    let files = lines.map(|line| {
        let mut words = line.splitn(3, ' ');
        let (sum, size, name) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
        plain.then(|| Line {
            sum: sum.to_owned(),
            size,
            name: name.to_owned(),
        })
    });
    Some((note, files.collect::<Option<_>>()?))
}

fn read_limited(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

fn sum(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => return Ok((size, hex(&sha.finalize()))),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        sha.update(&buffer[..n]);
        size += n as u64;
    }
}

fn sync(path: &Path) -> Result<(), CacheError> {
    File::open(path)
        .and_then(|f| f.sync_all())
        .map_err(CacheError::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(cache: &Cache, content: &str) -> PathBuf {
        let target = cache.path("images/x");
        let draft = Draft::new(cache).unwrap();
        fs::write(draft.path().join("kernel"), content).unwrap();
        fs::write(draft.path().join("a name with spaces"), "2").unwrap();
        draft.seal(&target, "version 1").unwrap();
        target
    }

    #[test]
    fn what_was_sealed_opens() {
        let dir = tempfile::tempdir().unwrap();
        let target = sealed(&Cache::at(dir.path()), "k");
        let sealed = Sealed::open(&target).unwrap();
        assert_eq!(sealed.note(), "version 1");
        assert_eq!(fs::read_to_string(sealed.file("kernel").unwrap()).unwrap(), "k");
        assert!(sealed.file("a name with spaces").is_some());
        assert!(sealed.file("other").is_none() && sealed.file(MANIFEST).is_none());
    }

    #[test]
    fn sealing_replaces_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        sealed(&cache, "old");
        let target = sealed(&cache, "new");
        assert_eq!(
            fs::read_to_string(Sealed::open(&target).unwrap().file("kernel").unwrap()).unwrap(),
            "new"
        );
        drop(Draft::new(&cache).unwrap());
        let left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["images"]);
    }

    #[test]
    fn every_kind_of_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        assert!(matches!(
            Sealed::open(&cache.path("images/x")),
            Err(Unsealed::Absent(_))
        ));
        let harms: [fn(&Path); 7] = [
            |t| fs::write(t.join("kernel"), "j").unwrap(),
            |t| fs::write(t.join("kernel"), "kk").unwrap(),
            |t| fs::remove_file(t.join("kernel")).unwrap(),
            |t| fs::write(t.join(MANIFEST), "").unwrap(),
            |t| fs::write(t.join(MANIFEST), [0xff, 0xfe, b'\n']).unwrap(),
            |t| {
                let text = fs::read_to_string(t.join(MANIFEST)).unwrap();
                fs::write(t.join(MANIFEST), text.replace("version 1", "version 2")).unwrap();
            },
            |t| {
                let text = fs::read_to_string(t.join(MANIFEST)).unwrap();
                fs::write(t.join(MANIFEST), &text[..text.len() - 1]).unwrap();
            },
        ];
        for (i, harm) in harms.iter().enumerate() {
            let target = sealed(&cache, "k");
            harm(&target);
            let found = Sealed::open(&target);
            assert!(
                matches!(found, Err(Unsealed::Damaged { .. })),
                "harm {i}: {found:?}"
            );
        }
    }

    #[test]
    fn a_manifest_cannot_name_files_elsewhere() {
        for name in ["../etc/passwd", "/etc/passwd", "..", ""] {
            let body = format!("{MAGIC}\nnote x\n00 0 {name}\n");
            let text = format!("{body}end {}\n", hex(&Sha256::digest(body.as_bytes())));
            assert!(parse(&text).is_none(), "{name}");
        }
    }

    #[test]
    fn sweeping_removes_unfinished_directories_only() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let target = sealed(&cache, "k");
        fs::create_dir(dir.path().join(".draft-dead")).unwrap();
        cache.sweep(&cache.lock(|| ()).unwrap());
        assert!(!dir.path().join(".draft-dead").exists());
        Sealed::open(&target).unwrap();
    }
}
