//! Interrupt wires.

use crate::sync::Lock;
use std::sync::Arc;

/// A level-triggered wire: asserted or not. `true` means asserted whatever the electrical polarity.
/// Setting the level it already has changes nothing.
pub trait LineSink: Send + Sync {
    /// Asserts or releases the wire.
    fn set(&self, level: bool);

    /// A falling and a rising edge; the wire stays asserted, as the output of an idle rate generator does.
    fn pulse(&self) {
        self.set(false);
        self.set(true);
    }
}

/// Takes message-signalled interrupts (Intel SDM vol. 3A §11.11).
pub trait MsiSink: Send + Sync {
    /// A write of `data` to `address`.
    fn send(&self, address: u64, data: u32);
}

/// A wire that leads nowhere.
#[derive(Clone, Copy, Default, Debug)]
pub struct Unconnected;

impl LineSink for Unconnected {
    fn set(&self, _: bool) {}
}

/// One wire to several pins, as ISA interrupts reach both the PIC and the I/O APIC.
pub struct FanOut(Vec<Arc<dyn LineSink>>);

impl FanOut {
    /// A wire to all of these.
    pub fn new(pins: Vec<Arc<dyn LineSink>>) -> Arc<Self> {
        Arc::new(Self(pins))
    }

    /// A wire to two pins.
    pub fn pair(a: Arc<dyn LineSink>, b: Arc<dyn LineSink>) -> Arc<dyn LineSink> {
        Self::new(vec![a, b])
    }
}

impl LineSink for FanOut {
    fn set(&self, level: bool) {
        self.0.iter().for_each(|p| p.set(level));
    }
}

/// One wire that several devices assert (wired OR), as PCI interrupts and the SCI are.
pub struct SharedLine {
    sink: Arc<dyn LineSink>,
    asserted: Lock<usize>,
}

impl SharedLine {
    /// The shared end of a wire to `sink`.
    pub fn new(sink: Arc<dyn LineSink>) -> Arc<Self> {
        Arc::new(Self {
            sink,
            asserted: Lock::new(0),
        })
    }

    /// An input for one more device. Dropping it releases the device's share.
    pub fn input(self: &Arc<Self>) -> Arc<dyn LineSink> {
        Arc::new(SharedInput {
            line: self.clone(),
            level: Lock::new(false),
        })
    }

    fn change(&self, level: bool) {
        let mut asserted = self.asserted.lock();
        *asserted = if level { *asserted + 1 } else { *asserted - 1 };
        // Held while the sink is told, so that two changes cannot overtake each other.
        self.sink.set(*asserted > 0);
    }
}

struct SharedInput {
    line: Arc<SharedLine>,
    level: Lock<bool>,
}

impl LineSink for SharedInput {
    fn set(&self, level: bool) {
        let mut was = self.level.lock();
        if *was != level {
            *was = level;
            self.line.change(level);
        }
    }
}

impl Drop for SharedInput {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
pub(crate) mod probe {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

    /// A pin that remembers its level and counts rising edges.
    #[derive(Default)]
    pub struct Probe {
        level: AtomicBool,
        rises: AtomicUsize,
    }

    impl Probe {
        pub fn level(&self) -> bool {
            self.level.load(SeqCst)
        }
        pub fn rises(&self) -> usize {
            self.rises.load(SeqCst)
        }
    }

    impl LineSink for Probe {
        fn set(&self, level: bool) {
            if !self.level.swap(level, SeqCst) && level {
                self.rises.fetch_add(1, SeqCst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::probe::Probe;
    use super::*;

    #[test]
    fn a_shared_line_is_an_or() {
        let probe = Arc::new(Probe::default());
        let line = SharedLine::new(probe.clone());
        let (a, b) = (line.input(), line.input());
        a.set(true);
        b.set(true);
        a.set(true);
        a.set(false);
        assert!(probe.level());
        drop(b);
        assert!(!probe.level());
        assert_eq!(probe.rises(), 1);
    }
}
