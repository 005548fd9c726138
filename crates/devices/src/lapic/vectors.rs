//! Sets of interrupt vectors that several threads change at once: IRR, ISR and TMR.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

#[derive(Default)]
pub(super) struct VectorSet([AtomicU64; 4]);

impl VectorSet {
    fn place(vector: u8) -> (usize, u64) {
        (vector as usize / 64, 1 << (vector % 64))
    }

    /// Adds a vector; whether it was new.
    pub fn insert(&self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        self.0[word].fetch_or(bit, SeqCst) & bit == 0
    }

    /// Takes a vector out; whether it was there.
    pub fn remove(&self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        self.0[word].fetch_and(!bit, SeqCst) & bit != 0
    }

    /// Makes membership of a vector what is wanted. Stores nothing if it is so already, as for a vector's
    /// trigger mode it almost always is.
    pub fn put(&self, vector: u8, member: bool) {
        if self.contains(vector) != member {
            if member {
                self.insert(vector)
            } else {
                self.remove(vector)
            };
        }
    }

    pub fn contains(&self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        self.0[word].load(SeqCst) & bit != 0
    }

    /// The highest member, which is the one of highest priority.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        for (i, word) in self.0.iter().enumerate().rev() {
            if let Some(bit) = word.load(SeqCst).checked_ilog2() {
                return Some(i as u8 * 64 + bit as u8);
            }
        }
        None
    }

    /// Register `index` (0-7) of the eight that show the set.
    pub fn register(&self, index: usize) -> u32 {
        (self.0[index / 2 % 4].load(SeqCst) >> (index % 2 * 32)) as u32
    }

    pub fn get(&self) -> [u64; 4] {
        std::array::from_fn(|i| self.0[i].load(SeqCst))
    }

    pub fn set(&self, words: [u64; 4]) {
        for (word, v) in self.0.iter().zip(words) {
            word.store(v, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_set(ops in prop::collection::vec((any::<u8>(), any::<bool>()), 0..200)) {
            let (v, mut model) = (VectorSet::default(), std::collections::BTreeSet::new());
            for (vector, add) in ops {
                if add {
                    prop_assert_eq!(v.insert(vector), model.insert(vector));
                } else {
                    prop_assert_eq!(v.remove(vector), model.remove(&vector));
                }
                prop_assert_eq!(v.highest(), model.last().copied());
                prop_assert_eq!(v.contains(vector), model.contains(&vector));
                let r = v.register(vector as usize / 32);
                prop_assert_eq!(r >> (vector % 32) & 1 == 1, model.contains(&vector));
            }
        }
    }
}
