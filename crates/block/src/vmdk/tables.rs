//! Grain tables in memory, some of them.

use std::collections::HashMap;
use std::sync::Arc;

/// Tables that are kept: 16 MiB at 512 entries each, for 256 GiB of a disk with the usual grains.
const LIMIT: usize = 8192;

/// An extent's number, and that of a table in its grain directory.
pub(super) type Key = (usize, u64);
/// A grain table; `None` if there is none.
pub(super) type Table = Option<Arc<[u32]>>;

/// Grain tables by place, with when they were last used.
#[derive(Default)]
pub(super) struct Tables {
    cached: HashMap<Key, (Table, u64)>,
    clock: u64,
}

impl Tables {
    pub(super) fn get(&mut self, key: Key) -> Option<Table> {
        let (table, used) = self.cached.get_mut(&key)?;
        self.clock += 1;
        *used = self.clock;
        Some(table.clone())
    }

    /// Keeps a table, and forgets those used longest ago if there are too many.
    pub(super) fn insert(&mut self, key: Key, table: Table) {
        if self.cached.len() >= LIMIT {
            let mut ages: Vec<u64> = self.cached.values().map(|(_, used)| *used).collect();
            // A quarter at once, so that not every miss looks for the oldest.
            let (_, last, _) = ages.select_nth_unstable(LIMIT / 4);
            let last = *last;
            self.cached.retain(|_, (_, used)| *used > last);
        }
        self.clock += 1;
        self.cached.insert(key, (table, self.clock));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let mut tables = Tables::default();
        for n in 0..3 * LIMIT as u64 {
            tables.insert((0, n), None);
            assert!(tables.get((0, 0)).is_some());
            assert!(tables.cached.len() <= LIMIT);
        }
        assert!(tables.get((0, 1)).is_none());
        assert!(tables.get((0, 3 * LIMIT as u64 - 1)).is_some());
    }
}
