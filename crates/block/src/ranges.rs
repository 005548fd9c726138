//! Locks on ranges of guest clusters: who changes their mapping.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard};

/// Ranges that somebody has.
#[derive(Default)]
pub(crate) struct RangeLocks {
    held: Mutex<Vec<Range<u64>>>,
    released: Condvar,
}

/// A range that nobody else has.
pub(crate) struct RangeGuard<'a> {
    locks: &'a RangeLocks,
    range: Range<u64>,
}

impl RangeLocks {
    fn held(&self) -> MutexGuard<'_, Vec<Range<u64>>> {
        self.held.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits until nobody has any of it. A thread has one range at a time, so nobody waits in a circle.
    pub(crate) fn lock(&self, range: Range<u64>) -> RangeGuard<'_> {
        let overlap =
            |held: &mut Vec<Range<u64>>| held.iter().any(|h| h.start < range.end && range.start < h.end);
        let held = self.held();
        let mut held = self
            .released
            .wait_while(held, overlap)
            .unwrap_or_else(|e| e.into_inner());
        held.push(range.clone());
        RangeGuard { locks: self, range }
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.locks.held();
        if let Some(at) = held.iter().position(|h| *h == self.range) {
            held.swap_remove(at);
        }
        self.locks.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn overlapping_ranges_exclude_each_other() {
        let locks = RangeLocks::default();
        let inside: [AtomicU32; 8] = Default::default();
        std::thread::scope(|s| {
            for t in 0..4 {
                let (locks, inside) = (&locks, &inside);
                s.spawn(move || {
                    for i in 0..2000u64 {
                        let start = (i * 7 + t * 3) % 6;
                        let range = start..start + 1 + (i + t) % 2;
                        let _guard = locks.lock(range.clone());
                        for c in range.clone() {
                            assert_eq!(inside[c as usize].fetch_add(1, Ordering::SeqCst), 0);
                        }
                        for c in range {
                            inside[c as usize].fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        let _apart = (locks.lock(0..2), locks.lock(2..4));
    }
}
