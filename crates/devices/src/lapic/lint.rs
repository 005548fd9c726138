//! The local interrupt pins, and the 8259 behind LINT0.

use super::LocalApic;
use super::registers::Lvt;
use crate::line::LineSink;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};

/// Where the vector of an ExtINT comes from: the interrupt-acknowledge cycle of an 8259.
pub trait ExtInt: Send + Sync {
    /// Acknowledges the interrupt; its vector. Called without any local APIC lock held.
    fn acknowledge(&self) -> u8;
}

struct Pin {
    apic: Arc<LocalApic>,
    index: usize,
}

impl LineSink for Pin {
    fn set(&self, level: bool) {
        self.apic.set_lint(self.index, level);
    }
}

impl LocalApic {
    /// The LINT0 pin: INTR of the 8259.
    pub fn lint0(self: &Arc<Self>) -> Arc<dyn LineSink> {
        Arc::new(Pin {
            apic: self.clone(),
            index: 0,
        })
    }

    /// The LINT1 pin: NMI.
    pub fn lint1(self: &Arc<Self>) -> Arc<dyn LineSink> {
        Arc::new(Pin {
            apic: self.clone(),
            index: 1,
        })
    }

    /// Says where ExtINT vectors come from. Held weakly, because the 8259 owns the pin; can be said once.
    pub fn connect_extint<T: ExtInt + 'static>(&self, source: &Arc<T>) {
        let weak: Weak<T> = Arc::downgrade(source);
        // A second source is ignored: the wires of a board do not change.
        let _ = self.extint.set(weak);
    }

    fn set_lint(&self, index: usize, level: bool) {
        let mut r = self.registers.lock();
        if r.lint[index] == level {
            return;
        }
        r.lint[index] = level;
        let which = [Lvt::Lint0, Lvt::Lint1][index];
        if level && self.hardware_enabled() {
            if let Some(entry) = r.active(which) {
                self.deliver_local(&mut r, entry);
            }
        } else if level && index == 1 {
            // With the APIC disabled the pins are INTR and NMI (Intel SDM vol. 3A §11.4.3).
            self.attention.raise(donjon_engine::Attention::NMI);
        }
        self.publish(&r);
        if level && index == 0 && !self.extint_line.load(SeqCst) {
            // Whatever the entry says: the processor may have another local APIC than this one.
            self.attention.raise(donjon_engine::Attention::INTERRUPT);
        }
    }

    /// The 8259's vector, for a processor that has another local APIC than this one.
    pub(super) fn extint_vector(&self) -> Option<u8> {
        let asked = self.extint_message.swap(false, SeqCst) || self.registers.lock().lint[0];
        let source = self.extint.get()?.upgrade().filter(|_| asked)?;
        Some(source.acknowledge())
    }

    /// The 8259's vector, if it asks.
    pub(super) fn acknowledge_extint(&self) -> Option<u8> {
        let message = self.extint_message.load(SeqCst) && self.hardware_enabled();
        if !message && !self.extint_line.load(SeqCst) {
            return None;
        }
        if message {
            self.extint_message.store(false, SeqCst);
        }
        self.extint.get()?.upgrade().map(|source| source.acknowledge())
    }
}
