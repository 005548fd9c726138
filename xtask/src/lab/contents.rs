//! What is on a disk of the lab, and what tells it from others.

use crate::libraries;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file system's files, by their paths without a leading slash.
#[derive(Default)]
pub struct Contents(BTreeMap<String, Entry>);

/// One of them.
pub enum Entry {
    /// A file of the host.
    Host(PathBuf),
    /// A file that is made here.
    Bytes(Vec<u8>),
    /// A symbolic link.
    Link(String),
    /// An empty directory.
    Directory,
    /// A character device.
    Device(u32, u32),
}

impl Contents {
    /// Adds one, in place of what was there.
    pub fn add(&mut self, path: impl Into<String>, entry: Entry) {
        self.0.insert(path.into(), entry);
    }

    /// Adds a program of the host with its libraries.
    pub fn add_program(&mut self, path: impl Into<String>, program: &Path) -> Result<()> {
        for library in libraries::of(program)? {
            let inside = library.to_string_lossy().trim_start_matches('/').to_owned();
            self.add(inside, Entry::Host(library));
        }
        self.add(path, Entry::Host(program.into()));
        Ok(())
    }

    /// All of them, each behind its directory.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(path, entry)| (&path[..], entry))
    }

    /// Changes whenever what is written would: a file of the host is known by its place, size and time.
    pub fn key(&self) -> Result<[u8; 32]> {
        let mut sha = Sha256::new();
        // Every part with its length, so that no two lists give the same bytes.
        let mut part = |bytes: &[u8]| {
            sha.update((bytes.len() as u64).to_le_bytes());
            sha.update(bytes);
        };
        for (path, entry) in self.iter() {
            part(path.as_bytes());
            match entry {
                Entry::Host(file) => {
                    let found = file
                        .metadata()
                        .with_context(|| format!("cannot examine {}", file.display()))?;
                    let facts = (
                        found.dev(),
                        found.ino(),
                        found.len(),
                        found.mtime(),
                        found.mtime_nsec(),
                    );
                    part(format!("host {facts:?}").as_bytes());
                }
                Entry::Bytes(bytes) => part(bytes),
                Entry::Link(target) => part(format!("link {target}").as_bytes()),
                Entry::Directory => part(b"directory"),
                Entry::Device(major, minor) => part(format!("device {major} {minor}").as_bytes()),
            }
        }
        Ok(sha.finalize().into())
    }
}

impl Entry {
    /// A file's content.
    pub fn reader(&self) -> Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::Host(path) => {
                let file = File::open(path);
                Box::new(file.with_context(|| format!("cannot open {}", path.display()))?)
            }
            Self::Bytes(bytes) => Box::new(&bytes[..]),
            Self::Link(_) | Self::Directory | Self::Device(..) => Box::new(std::io::empty()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "one").unwrap();
        let mut contents = Contents::default();
        contents.add("a", Entry::Host(file.clone()));
        contents.add("b", Entry::Bytes(b"b".into()));
        let first = contents.key().unwrap();
        assert_eq!(contents.key().unwrap(), first);
        std::fs::write(&file, "three").unwrap();
        let second = contents.key().unwrap();
        assert_ne!(second, first);
        contents.add("c", Entry::Directory);
        assert_ne!(contents.key().unwrap(), second);
        std::fs::remove_file(&file).unwrap();
        let error = contents.key().unwrap_err().to_string();
        assert!(error.contains("file"), "{error}");
    }

    #[test]
    fn a_program_brings_its_libraries() {
        let mut contents = Contents::default();
        contents
            .add_program("usr/bin/me", &std::env::current_exe().unwrap())
            .unwrap();
        let paths: Vec<_> = contents.iter().map(|(path, _)| path).collect();
        assert!(paths.contains(&"usr/bin/me"), "{paths:?}");
        assert!(paths.iter().any(|p| p.ends_with("libc.so.6")), "{paths:?}");
        assert!(paths.iter().all(|p| !p.starts_with('/')), "{paths:?}");
    }
}
