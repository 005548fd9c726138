//! The table of nodes.
//!
//! A node stays while the guest knows it or other nodes lie in it. Where nodes lie is a tree, whatever the host does
//! to its directories meanwhile.

mod saved;

use super::cache::Cache;
use super::{Identity, Inode, State};
use crate::Result;
use crate::abi::ROOT;
use crate::limits::Limits;
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The most names from a directory that is open to a node: more than any path has (PATH_MAX).
const MOST_NAMES: usize = 4096;

/// What is taken out of the table, to be closed once it is unlocked.
pub type Gone = Vec<Arc<OwnedFd>>;

pub struct Node {
    /// `None` if it is not known which file it is since a restore.
    pub identity: Option<Identity>,
    /// In which node it is, under which name; `None` if nowhere.
    place: Option<(u64, CString)>,
    /// How often the guest knows it.
    lookups: u64,
    /// Nodes in it.
    children: u64,
    fd: Option<Arc<OwnedFd>>,
    /// The state that the file was in when it was last opened.
    pub opened: Option<State>,
}

impl Node {
    pub fn root(fd: &Arc<OwnedFd>, identity: Identity) -> Self {
        Self {
            identity: Some(identity),
            place: None,
            lookups: 1,
            children: 0,
            fd: Some(fd.clone()),
            opened: None,
        }
    }
}

/// How to come to a node.
pub enum Way {
    /// It is open.
    Open(Arc<OwnedFd>),
    /// By these names, from here.
    Names {
        from: Arc<OwnedFd>,
        names: Vec<CString>,
        identity: Option<Identity>,
    },
}

pub struct Table {
    pub nodes: HashMap<u64, Node>,
    by_inode: HashMap<Inode, u64>,
    last: u64,
    pub cache: Cache,
    pub most_open: usize,
    most: usize,
}

impl Table {
    pub fn new(root: Node, limits: &Limits) -> Self {
        let inode = root.identity.iter().map(|i| (i.inode, ROOT)).collect();
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            by_inode: inode,
            last: ROOT,
            cache: Cache::default(),
            most_open: limits.descriptors,
            most: limits.nodes,
        }
    }

    /// The node of a file, if there is one.
    pub fn find(&self, identity: &Identity) -> Option<u64> {
        let id = *self.by_inode.get(&identity.inode)?;
        let same = self.nodes.get(&id)?.identity.is_some_and(|i| i.is(identity));
        same.then_some(id)
    }

    pub fn way(&mut self, id: u64) -> Result<Way> {
        let node = self.nodes.get(&id).ok_or(Errno::STALE)?;
        if let Some(fd) = &node.fd {
            self.cache.used(id);
            return Ok(Way::Open(fd.clone()));
        }
        let identity = node.identity;
        let mut names = vec![];
        let mut at = node;
        let from = loop {
            let (parent, name) = at.place.as_ref().ok_or(Errno::STALE)?;
            names.push(name.clone());
            if names.len() > MOST_NAMES {
                return Err(Errno::STALE);
            }
            at = self.nodes.get(parent).ok_or(Errno::STALE)?;
            if let Some(fd) = &at.fd {
                break fd.clone();
            }
        };
        names.reverse();
        Ok(Way::Names {
            from,
            names,
            identity,
        })
    }

    /// Which file a node without an identity is.
    pub fn identify(&mut self, id: u64, identity: Identity) -> Result<()> {
        let node = self.nodes.get_mut(&id).ok_or(Errno::STALE)?;
        if node.identity.is_some_and(|i| !i.is(&identity)) || self.by_inode.contains_key(&identity.inode) {
            return Err(Errno::STALE);
        }
        node.identity = Some(identity);
        self.by_inode.insert(identity.inode, id);
        Ok(())
    }

    pub fn enter(&mut self, parent: u64, name: &CStr, identity: Identity) -> Result<u64> {
        if !self.nodes.contains_key(&parent) {
            return Err(Errno::STALE);
        }
        if let Some(id) = self.find(&identity) {
            let node = self.nodes.get_mut(&id).ok_or(Errno::STALE)?;
            node.lookups = node.lookups.saturating_add(1);
            if !self.is_at(id, parent, name) {
                // A link, or the host has moved it.
                drop(self.place(id, Some((parent, name))));
            }
            return Ok(id);
        }
        if self.nodes.len() >= self.most {
            return Err(Errno::NFILE);
        }
        self.last += 1;
        let id = self.last;
        let node = Node {
            identity: Some(identity),
            place: Some((parent, name.to_owned())),
            lookups: 1,
            children: 0,
            fd: None,
            opened: None,
        };
        // The number may have been another file's, which is then gone.
        self.by_inode.insert(identity.inode, id);
        self.nodes.insert(id, node);
        self.count_child(parent);
        Ok(id)
    }

    fn count_child(&mut self, parent: u64) {
        if let Some(parent) = self.nodes.get_mut(&parent) {
            parent.children += 1;
        }
    }

    pub fn is_at(&self, id: u64, parent: u64, name: &CStr) -> bool {
        let place = self.nodes.get(&id).and_then(|n| n.place.as_ref());
        place.is_some_and(|(p, n)| *p == parent && n.as_c_str() == name)
    }

    /// Whether a node is another one, or in it.
    fn is_in(&self, id: u64, other: u64) -> bool {
        let mut at = Some(id);
        while let Some(id) = at {
            if id == other {
                return true;
            }
            at = self.nodes.get(&id).and_then(|n| Some(n.place.as_ref()?.0));
        }
        false
    }

    /// A node is somewhere else, or nowhere.
    pub fn place(&mut self, id: u64, place: Option<(u64, &CStr)>) -> Gone {
        if id == ROOT {
            return vec![];
        }
        // The host may have moved directories about since they were found.
        let place = place.filter(|(parent, _)| self.nodes.contains_key(parent) && !self.is_in(*parent, id));
        if let Some((parent, _)) = place {
            self.count_child(parent);
        }
        let Some(node) = self.nodes.get_mut(&id) else {
            return vec![];
        };
        let place = place.map(|(parent, name)| (parent, name.to_owned()));
        let before = std::mem::replace(&mut node.place, place);
        before.map_or(vec![], |(parent, _)| self.leave(parent))
    }

    /// A node has one less in it.
    fn leave(&mut self, parent: u64) -> Gone {
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.children -= 1;
        }
        self.release(parent)
    }

    pub fn forget(&mut self, id: u64, times: u64) -> Gone {
        match self.nodes.get_mut(&id) {
            Some(node) if id != ROOT => node.lookups = node.lookups.saturating_sub(times),
            _ => return vec![],
        }
        self.release(id)
    }

    /// Removes a node that nobody needs, and those it was in.
    fn release(&mut self, id: u64) -> Gone {
        let mut gone = vec![];
        let mut at = id;
        while at != ROOT
            && self
                .nodes
                .get(&at)
                .is_some_and(|n| n.lookups == 0 && n.children == 0)
        {
            let Some(node) = self.nodes.remove(&at) else { break };
            gone.extend(node.fd);
            self.cache.remove(at);
            if let Some(identity) = node.identity
                && self.by_inode.get(&identity.inode) == Some(&at)
            {
                self.by_inode.remove(&identity.inode);
            }
            let Some((parent, _)) = node.place else { break };
            if let Some(parent) = self.nodes.get_mut(&parent) {
                parent.children -= 1;
            }
            at = parent;
        }
        gone
    }

    /// Keeps a node's descriptor, if it has none.
    pub fn keep(&mut self, id: u64, fd: &Arc<OwnedFd>) {
        if let Some(node) = self.nodes.get_mut(&id)
            && node.fd.is_none()
        {
            node.fd = Some(fd.clone());
            self.cache.add(id);
        }
    }

    /// Takes descriptors away until at most `most` are left. Those of nodes without a name are the last.
    pub fn evict(&mut self, most: usize) -> Gone {
        let mut gone = vec![];
        while self.cache.len() > most {
            let nodes = &self.nodes;
            let nameless = |id| nodes.get(&id).is_some_and(|n| n.place.is_none());
            let Some(id) = self.cache.take(nameless) else {
                break;
            };
            gone.extend(self.nodes.get_mut(&id).and_then(|n| n.fd.take()));
        }
        gone
    }

    pub fn clear(&mut self) -> Gone {
        let mut gone = vec![];
        for (id, node) in std::mem::take(&mut self.nodes) {
            if id == ROOT {
                self.by_inode.retain(|_, id| *id == ROOT);
                self.nodes.insert(ROOT, Node { children: 0, ..node });
            } else {
                gone.extend(node.fd);
            }
        }
        self.cache = Cache::default();
        gone
    }
}
