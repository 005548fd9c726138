//! How a device's news reach the driver: MSI-X vectors, or the interrupt pin and the ISR status.

use crate::device::Notifier;
use donjon_devices::sync::Lock;
use donjon_pci::Interrupts;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

/// VIRTIO_MSI_NO_VECTOR.
pub const NO_VECTOR: u16 = 0xffff;
/// Bits of the ISR status (virtio 1.2 §4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIGURATION: u8 = 2;

/// The part of the transport that device threads reach, without waiting for anyone.
pub struct Signals {
    interrupts: OnceLock<Arc<Interrupts>>,
    isr: Lock<u8>,
    /// Of configuration changes.
    pub vector: AtomicU16,
    /// Of each queue.
    pub vectors: Vec<AtomicU16>,
    /// config_generation.
    pub generation: AtomicU8,
    /// DEVICE_NEEDS_RESET was called for.
    pub needs_reset: AtomicU8,
}

impl Signals {
    pub fn new(queues: usize) -> Self {
        Self {
            interrupts: OnceLock::new(),
            isr: Lock::new(0),
            vector: AtomicU16::new(NO_VECTOR),
            vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            generation: AtomicU8::new(0),
            needs_reset: AtomicU8::new(0),
        }
    }

    pub fn connect(&self, interrupts: Arc<Interrupts>) {
        // The bus connects once.
        let _ = self.interrupts.set(interrupts);
    }

    pub fn queues(&self) -> usize {
        self.vectors.len()
    }

    /// What a driver may choose as a vector; anything else becomes [`NO_VECTOR`].
    pub fn vector_or_none(&self, vector: u16) -> u16 {
        if usize::from(vector) <= self.queues() {
            vector
        } else {
            NO_VECTOR
        }
    }

    fn raise(&self, vector: &AtomicU16, isr: u8) {
        let Some(interrupts) = self.interrupts.get() else {
            return;
        };
        if interrupts.msix_enabled() {
            let vector = vector.load(SeqCst);
            if vector != NO_VECTOR {
                interrupts.msix(vector);
            }
        } else {
            let mut status = self.isr.lock();
            *status |= isr;
            interrupts.line(true);
        }
    }

    /// Reading the ISR status clears it and releases the pin.
    pub fn take_isr(&self) -> u8 {
        let mut status = self.isr.lock();
        if let Some(interrupts) = self.interrupts.get() {
            interrupts.line(false);
        }
        std::mem::take(&mut *status)
    }

    pub fn isr(&self) -> u8 {
        *self.isr.lock()
    }

    pub fn set_isr(&self, value: u8) {
        *self.isr.lock() = value;
    }

    /// As at power-on, but for the generation: a driver that reads across a reset must notice.
    pub fn reset(&self) {
        self.take_isr();
        self.needs_reset.store(0, SeqCst);
        for vector in self.vectors.iter().chain([&self.vector]) {
            vector.store(NO_VECTOR, SeqCst);
        }
    }
}

impl Notifier for Signals {
    fn used(&self, index: u16) {
        if let Some(vector) = self.vectors.get(usize::from(index)) {
            self.raise(vector, ISR_QUEUE);
        }
    }

    fn configuration_changed(&self) {
        self.generation.fetch_add(1, SeqCst);
        self.raise(&self.vector, ISR_CONFIGURATION);
    }

    fn needs_reset(&self) {
        self.needs_reset.store(1, SeqCst);
        self.raise(&self.vector, ISR_CONFIGURATION);
    }
}
