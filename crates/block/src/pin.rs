//! Who may still be using clusters that were let go of.
//!
//! A transfer that goes straight to the file pins the image first and looks the cluster up then. A cluster is
//! let go of by removing its mapping first and asking for a stamp then: whoever found it in the mapping has
//! a pin that is not newer than that stamp.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Default)]
struct Live {
    now: u64,
    /// How many pins of each age there are.
    pins: BTreeMap<u64, usize>,
}

/// The pins of an image.
#[derive(Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<Live>>);

/// Keeps the clusters that a transfer uses from being used for something else. Dropped, it lets go.
#[must_use = "clusters are only kept while the pin is"]
pub struct Pin {
    /// Nothing is ever let go of where there is none.
    pins: Option<Pins>,
    age: u64,
}

impl Pin {
    /// Of an image that never uses room for something else.
    pub(crate) fn none() -> Self {
        Self { pins: None, age: 0 }
    }
}

impl Pins {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A pin, to be had before the mapping is looked at.
    pub(crate) fn pin(&self) -> Pin {
        let mut live = self.live();
        let age = live.now;
        *live.pins.entry(age).or_default() += 1;
        Pin {
            pins: Some(self.clone()),
            age,
        }
    }

    /// The stamp of what has just been removed from the mapping.
    pub(crate) fn stamp(&self) -> u64 {
        let mut live = self.live();
        live.now += 1;
        live.now - 1
    }

    /// Everything with an older stamp than this is used by nobody.
    pub(crate) fn oldest(&self) -> u64 {
        let live = self.live();
        live.pins.keys().next().copied().unwrap_or(live.now)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let Some(pins) = &self.pins else {
            return;
        };
        let mut live = pins.live();
        if let Some(count) = live.pins.get_mut(&self.age) {
            *count -= 1;
            if *count == 0 {
                live.pins.remove(&self.age);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_keeps_what_was_let_go_of_after_it() {
        let pins = Pins::default();
        let early = pins.stamp();
        assert!(early < pins.oldest());
        let first = pins.pin();
        let stamp = pins.stamp();
        assert!(early < pins.oldest() && stamp >= pins.oldest());
        let second = pins.pin();
        drop(first);
        assert!(stamp < pins.oldest());
        let last = pins.stamp();
        assert!(last >= pins.oldest());
        drop(second);
        assert!(last < pins.oldest());
    }
}
