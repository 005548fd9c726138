//! A tree of files in memory.

mod error;
mod layer;
mod metadata;
mod node;
mod path;
mod remove;
mod spool;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use metadata::{Metadata, Timestamp};
pub use node::{Directory, Kind, Node};
pub(crate) use node::{Id, ROOT};
pub use spool::{Content, Spool};

use node::Entry;
use path::Place;
use std::io::Read;

/// How much a tree takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all files that were ever added, holes included.
    pub content: u64,
    /// Entries that were ever added. One with long names or extended attributes counts for several, so that this
    /// bounds memory: some 300 bytes each.
    pub entries: u64,
}

impl Default for Limits {
    /// 64 GiB in two million entries.
    fn default() -> Self {
        Self {
            content: 64 << 30,
            entries: 2 << 20,
        }
    }
}

/// A tree of files: names and metadata in memory, content in a spool.
#[derive(Debug)]
pub struct Tree {
    /// Nodes without names are gone.
    nodes: Vec<Option<Node>>,
    spool: Spool,
    limits: Limits,
    /// What was added so far, in the units of `limits`.
    used: Limits,
    layer: u32,
}

/// Bytes of metadata that one entry of [`Limits::entries`] stands for.
const ENTRY_BYTES: usize = 256;
/// Names a file can have: what ext4's link count holds.
const MAX_NAMES: u32 = 65_000;

impl Tree {
    /// An empty root directory, of mode 0755 and from 1970. Files' content goes into `spool`.
    pub fn new(spool: Spool, limits: Limits) -> Self {
        let root = Node {
            metadata: Metadata::new(0o755),
            kind: Kind::directory(),
            names: 1,
        };
        Self {
            nodes: vec![Some(root)],
            spool,
            limits,
            used: Limits {
                content: 0,
                entries: 0,
            },
            layer: 0,
        }
    }

    /// Stores content for a file to come: everything that `reader` has.
    pub fn store(&mut self, reader: &mut dyn Read) -> Result<Content, Error> {
        self.store_runs(reader, None, &[(0, u64::MAX)])
    }

    /// Gives `path` a new node, in place of what was there. A directory in place of a directory keeps the entries of
    /// the old one. Missing parents are made, with mode 0755 and the time of the new node; parents that are symbolic
    /// links lead where they lead inside the tree.
    pub fn insert(&mut self, path: impl AsRef<[u8]>, kind: Kind, metadata: Metadata) -> Result<(), Error> {
        let path = path.as_ref();
        metadata.check(path)?;
        if let Kind::Symlink(target) = &kind
            && (target.is_empty() || target.len() > path::MAX_TARGET || target.contains(&0))
        {
            return Err(Error::Target { path: path.into() });
        }
        self.charge(path.len() + metadata.weight() + kind.weight())?;
        let Some(place) = self.place(path, metadata.mtime)? else {
            return self.set_root(kind, metadata);
        };
        match (self.child(&place), &kind) {
            (Some(old), Kind::Directory(new)) if new.entries.is_empty() && self.is_directory(old) => {
                self.node_mut(old).metadata = metadata;
                self.name(place, old);
            }
            (old, _) => {
                if old.is_some() {
                    self.remove_entry(&place);
                }
                let id = self.nodes.len();
                self.nodes.push(Some(Node {
                    metadata,
                    kind,
                    names: 1,
                }));
                self.name(place, id);
            }
        }
        Ok(())
    }

    /// Gives the file at `target` another name, a hard link, in place of what was there. The last part of `target`
    /// is not followed if it is a symbolic link.
    pub fn link(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Result<(), Error> {
        let (path, target) = (path.as_ref(), target.as_ref());
        self.charge(path.len())?;
        let missing = || Error::LinkTarget {
            path: path.into(),
            target: target.into(),
        };
        let id = self.find(target, false)?.ok_or_else(missing)?;
        if self.is_directory(id) || self.node(id).names >= MAX_NAMES {
            return Err(missing());
        }
        let mtime = self.node(id).metadata.mtime;
        let Some(place) = self.place(path, mtime)? else {
            return Err(missing());
        };
        // One name in place of itself.
        if self.child(&place) == Some(id) {
            self.name(place, id);
            return Ok(());
        }
        // Counted first, or the last name of the target could be the one that goes.
        self.node_mut(id).names += 1;
        if self.child(&place).is_some() {
            self.remove_entry(&place);
        }
        self.name(place, id);
        Ok(())
    }

    /// What is at `path`; symbolic links are followed inside the tree, as by a process whose root it is.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Result<Option<&Node>, Error> {
        Ok(self.find(path.as_ref(), true)?.map(|id| self.node(id)))
    }

    /// The first `limit` bytes of the file at `path`; `None` if there is no regular file.
    pub fn read(&self, path: impl AsRef<[u8]>, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        match self.get(path)?.map(Node::kind) {
            Some(Kind::File(content)) => {
                let mut bytes = vec![0; content.size().min(limit) as usize];
                self.spool.read_at(content, 0, &mut bytes).map_err(Error::Spool)?;
                Ok(Some(bytes))
            }
            _ => Ok(None),
        }
    }

    /// The bytes of all files that were ever added, holes included.
    pub fn content_added(&self) -> u64 {
        self.used.content
    }

    /// The names in the directory `node` is, if it is one, and what they stand for.
    pub fn children<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = (&'a [u8], &'a Node)> {
        let directory = match &node.kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        };
        directory
            .into_iter()
            .flat_map(|d| &d.entries)
            .map(|(name, entry)| (&name[..], self.node(entry.node)))
    }

    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// How many nodes there ever were: every [`Id`] is below this.
    pub(crate) fn ids(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        self.nodes[id].as_ref().expect("names stand for nodes")
    }

    pub(crate) fn names(&self, id: Id) -> u32 {
        self.node(id).names
    }

    /// The entries of a directory; of anything else, none.
    pub(crate) fn entries(&self, id: Id) -> impl Iterator<Item = (&[u8], Id)> {
        let directory = match &self.node(id).kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        };
        directory
            .into_iter()
            .flat_map(|d| &d.entries)
            .map(|(name, entry)| (&name[..], entry.node))
    }

    fn set_root(&mut self, kind: Kind, metadata: Metadata) -> Result<(), Error> {
        match kind {
            Kind::Directory(_) => {
                self.node_mut(ROOT).metadata = metadata;
                Ok(())
            }
            _ => Err(Error::Root),
        }
    }

    fn store_runs(
        &mut self,
        reader: &mut dyn Read,
        size: Option<u64>,
        runs: &[(u64, u64)],
    ) -> Result<Content, Error> {
        let limit = self.limits.content;
        let left = limit - self.used.content;
        let content = self.spool.append(reader, size, runs, left, limit)?;
        self.used.content += content.size();
        Ok(content)
    }

    /// Counts an entry with this many bytes of names and attributes.
    fn charge(&mut self, bytes: usize) -> Result<(), Error> {
        self.used.entries += 1 + (bytes / ENTRY_BYTES) as u64;
        match self.used.entries > self.limits.entries {
            true => Err(Error::Entries(self.limits.entries)),
            false => Ok(()),
        }
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        self.nodes[id].as_mut().expect("names stand for nodes")
    }

    fn is_directory(&self, id: Id) -> bool {
        matches!(self.node(id).kind, Kind::Directory(_))
    }

    fn directory(&self, id: Id) -> &Directory {
        match &self.node(id).kind {
            Kind::Directory(directory) => directory,
            _ => unreachable!("places are in directories"),
        }
    }

    fn directory_mut(&mut self, id: Id) -> &mut Directory {
        match &mut self.node_mut(id).kind {
            Kind::Directory(directory) => directory,
            _ => unreachable!("places are in directories"),
        }
    }

    fn child(&self, place: &Place) -> Option<Id> {
        let entry = self.directory(place.directory).entries.get(&place.name);
        entry.map(|e| e.node)
    }

    fn name(&mut self, place: Place, node: Id) {
        let layer = self.layer;
        self.directory_mut(place.directory)
            .entries
            .insert(place.name, Entry { node, layer });
    }
}
