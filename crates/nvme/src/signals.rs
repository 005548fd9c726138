//! Interrupts: MSI-X messages, or the pin with its mask (NVM Express Base 1.4 §7.5).

use donjon_devices::sync::Lock;
use donjon_pci::Interrupts;
use std::sync::{Arc, OnceLock};

#[derive(Default)]
struct Pin {
    /// Completion queues that want it asserted.
    asking: u128,
    /// Interrupt mask; every queue uses vector 0.
    masked: u32,
}

/// How completion queues interrupt.
#[derive(Default)]
pub struct Signals {
    interrupts: OnceLock<Arc<Interrupts>>,
    pin: Lock<Pin>,
}

impl Signals {
    pub fn connect(&self, interrupts: Arc<Interrupts>) {
        // The bus connects once.
        let _ = self.interrupts.set(interrupts);
    }

    /// Whether the guest has enabled MSI-X.
    pub fn has_messages(&self) -> bool {
        self.interrupts.get().is_some_and(|i| i.msix_enabled())
    }

    pub fn message(&self, vector: u16) {
        if let Some(interrupts) = self.interrupts.get() {
            interrupts.msix(vector);
        }
    }

    /// Whether completion queue `queue` has something that the host has not seen.
    pub fn ask(&self, queue: u16, wanted: bool) {
        self.change(|pin| {
            let bit = 1 << queue;
            pin.asking = if wanted {
                pin.asking | bit
            } else {
                pin.asking & !bit
            };
        });
    }

    /// Sets the bits `set` of the mask, then clears the bits `clear`.
    pub fn mask(&self, set: u32, clear: u32) {
        self.change(|pin| pin.masked = (pin.masked | set) & !clear);
    }

    pub fn masked(&self) -> u32 {
        self.pin.lock().masked
    }

    pub fn reset(&self) {
        self.change(|pin| *pin = Pin::default());
    }

    fn change(&self, change: impl FnOnce(&mut Pin)) {
        let mut pin = self.pin.lock();
        change(&mut pin);
        // With the lock held: levels reach the line in the order in which they came to be.
        if let Some(interrupts) = self.interrupts.get() {
            interrupts.line(pin.asking != 0 && pin.masked & 1 == 0);
        }
    }
}
