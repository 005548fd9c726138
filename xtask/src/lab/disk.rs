//! Disks of the lab: ext4 file systems that are kept until something on them changes.

use super::contents::{Contents, Entry};
use crate::command::target_dir;
use anyhow::{Context, Result};
use donjon_ext4::{Kind, Limits, Metadata, Options, Spool, Tree, required_size};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Disks of one kind that are kept.
const KEPT: usize = 4;

/// The disk of these contents, with at least `free` bytes of room: the one that is there, or a new one.
pub fn of(kind: &str, contents: &Contents, free: u64) -> Result<PathBuf> {
    of_in(&target_dir().join("lab"), kind, contents, free)
}

fn of_in(directory: &Path, kind: &str, contents: &Contents, free: u64) -> Result<PathBuf> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let key = contents.key()?;
    let digits: String = key[..8].iter().map(|b| format!("{b:02x}")).collect();
    let path = directory.join(format!("{kind}-{digits}.ext4"));
    if path.exists() {
        // Says that it is in use still.
        File::options()
            .append(true)
            .open(&path)
            .and_then(|f| f.set_modified(SystemTime::now()))
            .with_context(|| format!("cannot touch {}", path.display()))?;
        return Ok(path);
    }
    // Whoever is killed leaves nothing under the disk's name.
    let draft = tempfile::NamedTempFile::new_in(directory)?;
    write(contents, &key, free, directory, draft.as_file())
        .with_context(|| format!("cannot make {}", path.display()))?;
    draft.persist(&path)?;
    sweep(directory, kind);
    Ok(path)
}

fn write(contents: &Contents, key: &[u8; 32], free: u64, directory: &Path, out: &File) -> Result<()> {
    let mut tree = Tree::new(Spool::new(tempfile::tempfile_in(directory)?), Limits::default());
    // Links lead to directories.
    let mut entries: Vec<_> = contents.iter().collect();
    entries.sort_by_key(|(_, entry)| !matches!(entry, Entry::Directory));
    for (path, entry) in entries {
        let node = match entry {
            Entry::Host(_) | Entry::Bytes(_) => Kind::File(tree.store(&mut *entry.reader()?)?),
            Entry::Link(target) => Kind::Symlink(target.as_bytes().into()),
            Entry::Directory => Kind::directory(),
            &Entry::Device(major, minor) => Kind::CharDevice { major, minor },
        };
        tree.insert(path, node, Metadata::new(0o755))?;
    }
    let options = Options::of_digest(required_size(&tree)? + free, key);
    donjon_ext4::write(&tree, &options, out)?;
    Ok(())
}

/// Removes the disks that were not used for longest. A machine that has one open keeps it.
fn sweep(directory: &Path, kind: &str) {
    let mut disks: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&format!("{kind}-")))
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    disks.sort();
    for (_, old) in disks.iter().rev().skip(KEPT) {
        // Another one may have been faster.
        let _ = fs::remove_file(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_made_once_and_old_ones_go() {
        let directory = tempfile::tempdir().unwrap();
        let make = |text: &str| {
            let mut contents = Contents::default();
            contents.add("usr/lib", Entry::Directory);
            contents.add("lib", Entry::Link("usr/lib".into()));
            contents.add("lib/file", Entry::Bytes(text.into()));
            of_in(directory.path(), "x", &contents, 16 << 20).unwrap()
        };
        let first = make("one");
        let made = fs::metadata(&first).unwrap();
        assert!(made.len() > 16 << 20, "{} bytes", made.len());
        assert_eq!(make("one"), first);
        for n in 0..KEPT {
            assert_ne!(make(&n.to_string()), first);
        }
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert!(!first.exists() && left == KEPT, "{left} disks");
    }
}
