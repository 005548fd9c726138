//! The MSI-X table and pending bits (PCI Local Bus 3.0 §6.8.2), and the BAR they are in.
//!
//! ```text
//! 0               vector 0: message address (8 bytes), data (4), vector control (4), then vector 1 …
//! half the BAR    pending bits, one a vector, in quadwords
//! ```

use crate::Interrupts;
use donjon_devices::MmioDevice;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The most vectors a function can have.
pub(crate) const MAX_VECTORS: u16 = 2048;
/// Bytes of a table entry.
const ENTRY: u64 = 16;
/// The mask bit of vector control; the others are reserved.
const MASKED: u32 = 1;

/// One entry of the table, with its pending bit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Vector {
    pub address: u64,
    pub data: u32,
    pub control: u32,
    pub pending: bool,
}

impl Default for Vector {
    /// Masked, as after reset (PCI Local Bus 3.0 §6.8.2.9).
    fn default() -> Self {
        let (address, data, control, pending) = (0, 0, MASKED, false);
        Self {
            address,
            data,
            control,
            pending,
        }
    }
}

impl Vector {
    pub fn masked(&self) -> bool {
        self.control & MASKED != 0
    }

    /// Whether saved values are some that can exist.
    pub fn is_legal(&self) -> bool {
        self.address & 3 == 0 && self.control & !MASKED == 0
    }

    fn read(&self, dword: u64) -> u32 {
        match dword {
            0 => self.address as u32,
            1 => (self.address >> 32) as u32,
            2 => self.data,
            _ => self.control,
        }
    }

    fn write(&mut self, dword: u64, value: u32) {
        match dword {
            // Messages are aligned dwords.
            0 => self.address = self.address & !0xffff_ffff | u64::from(value & !3),
            1 => self.address = self.address & 0xffff_ffff | u64::from(value) << 32,
            2 => self.data = value,
            _ => self.control = value & MASKED,
        }
    }
}

/// Bytes of the BAR for so many vectors: the pending bits have their own page.
pub(crate) fn bar_size(vectors: u16) -> u64 {
    2 * pending_offset(vectors)
}

/// Where the pending bits are.
pub(crate) fn pending_offset(vectors: u16) -> u64 {
    (u64::from(vectors) * ENTRY).next_power_of_two().max(0x1000)
}

/// The BAR.
pub(crate) struct Table(pub Arc<Interrupts>);

impl Table {
    fn dword(&self, offset: u64) -> u32 {
        let pending = pending_offset(self.0.vectors());
        if offset < pending {
            let read = |v: &mut Vector| v.read(offset % ENTRY / 4);
            return self.0.with_vector((offset / ENTRY) as usize, read).unwrap_or(0);
        }
        // A dword of pending bits; beyond the last vector they are zero.
        let first = (offset - pending) / 4 * 32;
        (0..32).fold(0, |bits, i| {
            let pending = self.0.with_vector((first + i) as usize, |v| v.pending);
            bits | u32::from(pending == Some(true)) << i
        })
    }

    fn set_dword(&self, offset: u64, value: u32) {
        // Pending bits are read-only, and entries end before them.
        self.0
            .with_vector((offset / ENTRY) as usize, |v| v.write(offset % ENTRY / 4, value));
    }
}

/// Accesses are aligned dwords and quadwords (PCI Local Bus 3.0 §6.8.2); the results of others are undefined, and
/// here they read as zero and write nothing.
impl MmioDevice for Table {
    fn read(&self, offset: u64, size: u8) -> u64 {
        match size {
            4 if offset.is_multiple_of(4) => self.dword(offset).into(),
            8 if offset.is_multiple_of(8) => {
                u64::from(self.dword(offset)) | u64::from(self.dword(offset + 4)) << 32
            }
            _ => 0,
        }
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        match size {
            4 if offset.is_multiple_of(4) => self.set_dword(offset, value as u32),
            8 if offset.is_multiple_of(8) => {
                self.set_dword(offset, value as u32);
                self.set_dword(offset + 4, (value >> 32) as u32);
            }
            _ => {}
        }
    }
}
