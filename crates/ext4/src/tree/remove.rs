//! How names go: replaced, or taken away by a layer's whiteouts.

use super::{Directory, Id, Kind, Place, Tree};
use std::collections::HashSet;

impl Tree {
    /// Takes a name away, with everything below it. Nothing of that name is nothing to do.
    pub(super) fn remove_entry(&mut self, place: &Place) {
        let entry = self.directory_mut(place.directory).entries.remove(&place.name);
        // Trees are deep in hostile archives: no recursion.
        let mut gone: Vec<Id> = entry.map(|e| e.node).into_iter().collect();
        while let Some(id) = gone.pop() {
            let node = self.node_mut(id);
            node.names -= 1;
            if node.names > 0 {
                continue;
            }
            if let Kind::Directory(directory) = &mut node.kind {
                gone.extend(std::mem::take(&mut directory.entries).values().map(|e| e.node));
            }
            self.nodes[id] = None;
        }
    }

    /// Takes away what layers before this one put at a place or below it. `pruned` are the directories where that
    /// was done for this layer: none of them is looked at twice.
    pub(super) fn prune_entry(&mut self, place: &Place, pruned: &mut HashSet<Id>) {
        let Some(entry) = self.directory(place.directory).entries.get(&place.name).copied() else {
            return;
        };
        self.prune_below(entry.node, pruned);
        if entry.layer < self.layer && self.is_bare(entry.node) {
            self.remove_entry(place);
        }
    }

    /// Takes away what layers before this one put into a directory.
    pub(super) fn prune_below(&mut self, top: Id, pruned: &mut HashSet<Id>) {
        let mut directories = Vec::new();
        let mut ahead = vec![top];
        while let Some(id) = ahead.pop() {
            if let Kind::Directory(directory) = &self.node(id).kind
                && pruned.insert(id)
            {
                directories.push(id);
                ahead.extend(directory.entries.values().map(|e| e.node));
            }
        }
        // Each after those below it.
        for id in directories.into_iter().rev() {
            let old: Vec<_> = self
                .directory(id)
                .entries
                .iter()
                .filter(|(_, e)| e.layer < self.layer && self.is_bare(e.node))
                .map(|(name, _)| name.clone())
                .collect();
            for name in old {
                self.remove_entry(&Place { directory: id, name });
            }
        }
    }

    /// Whether nothing is below it.
    fn is_bare(&self, id: Id) -> bool {
        match &self.node(id).kind {
            Kind::Directory(Directory { entries }) => entries.is_empty(),
            _ => true,
        }
    }
}
