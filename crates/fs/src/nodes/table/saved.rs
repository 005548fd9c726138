//! What of the table is saved, and how it comes back.

use super::{Node, Table};
use crate::Result;
use crate::abi::ROOT;
use crate::saved::{MOST_NUMBERS, SavedNode};
use rustix::io::Errno;

impl Table {
    pub fn list(&self) -> (Vec<SavedNode>, u64) {
        let others = self.nodes.iter().filter(|(id, _)| **id != ROOT);
        let list = others.map(|(id, node)| SavedNode {
            id: *id,
            place: node.place.clone(),
            lookups: node.lookups,
        });
        (list.collect(), self.last)
    }

    pub fn put_back(&mut self, list: &[SavedNode], last: u64) -> Result<()> {
        if list.len() >= self.most {
            return Err(Errno::NFILE);
        }
        if last > MOST_NUMBERS {
            return Err(Errno::INVAL);
        }
        for saved in list {
            let node = Node {
                identity: None,
                place: None,
                lookups: saved.lookups,
                children: 0,
                fd: None,
                opened: None,
            };
            if saved.id == ROOT || saved.id > last || self.nodes.insert(saved.id, node).is_some() {
                return Err(Errno::INVAL);
            }
        }
        self.last = self.last.max(last);
        for saved in list {
            let place = saved.place.as_ref();
            let place = place.map(|(parent, name)| (*parent, name.as_c_str()));
            // What cannot be is nowhere.
            drop(self.place(saved.id, place));
        }
        Ok(())
    }
}
