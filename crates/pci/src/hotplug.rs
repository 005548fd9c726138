//! The hotplug controller: how guest and board agree on devices that come and go.
//!
//! # Registers
//!
//! Three little-endian dwords in I/O space. Bit *n* stands for slot *n* of bus 0; bit 0 of each reads as zero and
//! writes to it do nothing, since the host bridge stays where it is. Bytes and words of them can be accessed too.
//!
//! | offset | register | access | meaning of bit *n* |
//! |---|---|---|---|
//! | 0x0 | INSERTED | read, write 1 to clear | A device was put into slot *n* since the bit was cleared. |
//! | 0x4 | REMOVAL | read, write 1 to clear | The guest is asked to let go of slot *n*, or its device has been pulled out. |
//! | 0x8 | EJECT | write only, reads as zero | Writing 1 removes the device in slot *n* from the bus. |
//!
//! Whenever a bit of INSERTED or REMOVAL is set the board raises a general-purpose event (edge-triggered in the
//! sense of ACPI 6.5 §5.6.4.1). The handler reads a register, clears what it has read by writing it back, and
//! notifies the slots' device objects: 1 (device check) for INSERTED, 3 (eject request) for REMOVAL
//! (ACPI 6.5 §5.6.6). A bit set in between is not lost: it raises the event again.
//!
//! A write to EJECT takes effect before the next instruction of the processor that writes: configuration space of
//! the slot reads as ones, its BARs are gone. It also clears the slot's bits in the other registers. The guest
//! need not have been asked. Writing a bit of an empty slot does nothing.
//!
//! Resets: all bits clear.

use crate::Bus;
use donjon_devices::PortDevice;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Ports of the hotplug controller.
pub const HOTPLUG_LEN: u64 = 12;

/// Bit 0 is the host bridge's.
const SLOTS: u32 = !1;

#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Registers {
    inserted: u32,
    removal: u32,
}

impl Registers {
    pub fn inserted(&mut self, slot: u8) {
        self.inserted |= 1 << slot;
        self.removal &= !(1 << slot);
    }

    pub fn wanted(&mut self, slot: u8) {
        self.removal |= 1 << slot;
        self.inserted &= !(1 << slot);
    }

    pub fn gone(&mut self, slot: u8) {
        self.removal &= !(1 << slot);
        self.inserted &= !(1 << slot);
    }

    /// Slots whose news the guest has not taken.
    pub fn unsettled(&self) -> u32 {
        self.inserted | self.removal
    }

    pub fn is_legal(&self) -> bool {
        self.unsettled() & !SLOTS == 0
    }
}

impl Bus {
    /// The hotplug controller: [`HOTPLUG_LEN`] ports.
    pub fn hotplug_ports(self: &Arc<Self>) -> Arc<dyn PortDevice> {
        Arc::new(Ports(self.clone()))
    }
}

struct Ports(Arc<Bus>);

impl PortDevice for Ports {
    fn read(&self, offset: u16, _: u8) -> u32 {
        let r = self.0.hotplug.lock();
        let register = match offset / 4 {
            0 => r.inserted,
            1 => r.removal,
            _ => 0,
        };
        register >> (offset % 4 * 8)
    }

    fn write(&self, offset: u16, _: u8, value: u32) {
        // What lies beyond the end of the register is cut off. Zeros do nothing, so the size does not matter.
        let ones = value << (offset % 4 * 8);
        match offset / 4 {
            0 => self.0.hotplug.lock().inserted &= !ones,
            1 => self.0.hotplug.lock().removal &= !ones,
            _ => self.0.eject(ones),
        }
    }
}
