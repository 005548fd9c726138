//! Which nodes have a descriptor, and which of them is taken away next: second chance, an approximation of the one that
//! was not used for the longest time.

use std::collections::{HashMap, VecDeque};

#[derive(Default)]
pub struct Cache {
    /// Whether each was used since it was last looked at.
    used: HashMap<u64, bool>,
    /// All of `used`, and some that are gone.
    queue: VecDeque<u64>,
}

impl Cache {
    pub fn len(&self) -> usize {
        self.used.len()
    }

    pub fn add(&mut self, id: u64) {
        if self.used.insert(id, false).is_none() {
            self.queue.push_back(id);
        }
    }

    pub fn used(&mut self, id: u64) {
        if let Some(used) = self.used.get_mut(&id) {
            *used = true;
        }
    }

    pub fn remove(&mut self, id: u64) {
        self.used.remove(&id);
        // An entry in the queue for each that is gone would be without a bound.
        if self.queue.len() > 2 * self.used.len() + 64 {
            self.queue.retain(|id| self.used.contains_key(id));
        }
    }

    /// Takes one; one that is `precious` only if there are no others.
    pub fn take(&mut self, precious: impl Fn(u64) -> bool) -> Option<u64> {
        let looks = 2 * self.queue.len();
        for look in 1..=looks {
            let id = self.queue.pop_front()?;
            let Some(used) = self.used.get_mut(&id) else {
                continue;
            };
            let spared = std::mem::take(used) || precious(id);
            if spared && look < looks {
                self.queue.push_back(id);
                continue;
            }
            self.used.remove(&id);
            return Some(id);
        }
        None
    }
}
