//! How a function interrupts: its MSI-X vectors and its pin.

use crate::msix::Vector;
use donjon_devices::sync::Lock;
use donjon_devices::{LineSink, MsiSink};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

/// MSI-X is enabled in message control.
const ENABLED: u8 = 1 << 0;
/// No message may leave: function mask, no bus mastering or a low power state.
const HELD: u8 = 1 << 1;

#[derive(Default)]
struct Pin {
    /// What the function wants.
    asserted: bool,
    /// Interrupt Disable in the command register, or a low power state.
    disabled: bool,
}

/// A function's interrupts. Made by the bus.
///
/// Sending takes one lock, the vector's own, so that vectors do not contend.
pub struct Interrupts {
    sink: Arc<dyn MsiSink>,
    line: Arc<dyn LineSink>,
    control: AtomicU8,
    vectors: Box<[Lock<Vector>]>,
    pin: Lock<Pin>,
}

impl Interrupts {
    pub(crate) fn new(vectors: u16, sink: Arc<dyn MsiSink>, line: Arc<dyn LineSink>) -> Arc<Self> {
        Arc::new(Self {
            sink,
            line,
            control: AtomicU8::new(0),
            vectors: (0..vectors).map(|_| Lock::default()).collect(),
            pin: Lock::default(),
        })
    }

    /// The number of MSI-X vectors.
    pub fn vectors(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// Whether the guest has enabled MSI-X; else a function uses its [`Interrupts::line`].
    #[inline]
    pub fn msix_enabled(&self) -> bool {
        self.control.load(SeqCst) & ENABLED != 0
    }

    /// Sends the message of `vector`, or sets its pending bit while it is masked (PCI Local Bus 3.0 §6.8.2.9). Does
    /// nothing while MSI-X is not enabled, or for a vector that there is not.
    #[inline]
    pub fn msix(&self, vector: u16) {
        let Some(vector) = self.vectors.get(vector as usize) else {
            return;
        };
        let mut vector = vector.lock();
        // Read under the lock: whoever masks takes it afterwards and so waits for a message under way.
        let control = self.control.load(SeqCst);
        if control & ENABLED != 0 {
            vector.pending = true;
            self.flush(&mut vector, control);
        }
    }

    /// Asserts or releases the function's interrupt pin (INTx). It has no effect on the wire while the guest
    /// has disabled it or enabled MSI-X.
    pub fn line(&self, level: bool) {
        self.change_pin(|p| p.asserted = level);
    }

    /// Sends the message if it waits and may leave.
    fn flush(&self, vector: &mut Vector, control: u8) {
        if vector.pending && !vector.masked() && control == ENABLED {
            vector.pending = false;
            // Under the vector's lock: after a write that masks it, none is on its way.
            self.sink.send(vector.address, vector.data);
        }
    }

    fn change_pin(&self, change: impl FnOnce(&mut Pin)) {
        let mut pin = self.pin.lock();
        change(&mut pin);
        // With MSI-X enabled the pin must not be used (PCI Local Bus 3.0 §6.8.3.3).
        self.line
            .set(pin.asserted && !pin.disabled && !self.msix_enabled());
    }

    /// What configuration space says now.
    pub(crate) fn configure(&self, msix: bool, held: bool, pin_disabled: bool) {
        let control = if msix { ENABLED } else { 0 } | if held { HELD } else { 0 };
        if self.control.swap(control, SeqCst) != control {
            for vector in &self.vectors {
                self.flush(&mut vector.lock(), control);
            }
        }
        self.change_pin(|p| p.disabled = pin_disabled);
    }

    /// Runs `f` on a vector, then sends what it lets go; `None` if there is no such vector.
    pub(crate) fn with_vector<T>(&self, index: usize, f: impl FnOnce(&mut Vector) -> T) -> Option<T> {
        let mut vector = self.vectors.get(index)?.lock();
        let value = f(&mut vector);
        self.flush(&mut vector, self.control.load(SeqCst));
        Some(value)
    }

    /// Whether the function asserts its pin: the Interrupt Status bit, whatever the Interrupt Disable bit says
    /// (PCI Local Bus 3.0 §6.2.3).
    pub(crate) fn asserted(&self) -> bool {
        self.pin.lock().asserted
    }

    /// As at power-on. To be called with interrupts configured off.
    pub(crate) fn reset(&self) {
        for vector in &self.vectors {
            *vector.lock() = Vector::default();
        }
        self.line(false);
    }

    /// All vectors and the pin, for saving.
    pub(crate) fn save(&self) -> (Vec<Vector>, bool) {
        (
            self.vectors.iter().map(|v| v.lock().clone()).collect(),
            self.asserted(),
        )
    }

    /// Puts back what was saved, of a function with as many vectors.
    pub(crate) fn restore(&self, vectors: &[Vector], asserted: bool) {
        for (vector, saved) in self.vectors.iter().zip(vectors) {
            *vector.lock() = saved.clone();
        }
        self.line(asserted);
    }
}
