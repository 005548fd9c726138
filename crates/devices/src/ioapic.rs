//! The I/O APIC (Intel 82093AA datasheet, with the EOI register of the ICH family: Intel I/O Controller Hub
//! datasheets, "I/O APIC", version 0x20).
//!
//! Pins are logical: asserted is asserted whatever the polarity bit of the entry says, because a wire here
//! has no voltage. Entries keep the bit for the guest.

use crate::bus::MmioDevice;
use crate::lapic::{ApicBus, DeliveryMode, Destination, EoiSink, Message};
use crate::line::LineSink;
use crate::state::{Lifecycle, Migrate, Record, RestoreError, Saved};
use crate::sync::Lock;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Weak};

/// Where the first I/O APIC of a PC is.
pub const ADDRESS: u64 = 0xfec0_0000;
/// Bytes of address space it takes.
pub const LEN: u64 = 0x1000;
/// Input pins.
pub const PINS: usize = 24;

const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const EOIR: u64 = 0x40;

const REG_ID: u8 = 0;
const REG_VERSION: u8 = 1;
const REG_ARBITRATION: u8 = 2;
const REG_TABLE: u8 = 0x10;
const REG_TABLE_LAST: u8 = REG_TABLE + 2 * PINS as u8 - 1;
/// Version 0x20 and the number of the last entry.
const VERSION: u32 = 0x20 | (PINS as u32 - 1) << 16;

/// One entry of the redirection table (82093AA datasheet §3.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Entry(u64);

impl Entry {
    const LEVEL: u64 = 1 << 15;
    const REMOTE_IRR: u64 = 1 << 14;
    const MASKED: u64 = 1 << 16;
    /// Delivery status (always idle) and remote IRR are read-only; the rest of the middle is reserved. Bits
    /// 49-55 extend the destination to 15 bits (KVM_FEATURE_MSI_EXT_DEST_ID).
    const WRITABLE: u64 = 0xfffe_0000_0001_afff;

    fn level(self) -> bool {
        self.0 & Self::LEVEL != 0
    }
    fn masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }
    fn in_service(self) -> bool {
        self.0 & Self::REMOTE_IRR != 0
    }
    fn vector(self) -> u8 {
        self.0 as u8
    }
    fn message(self) -> Message {
        let id = (self.0 >> 56) as u32 | ((self.0 >> 49 & 0x7f) as u32) << 8;
        Message {
            destination: Destination::from_device(id, self.0 & 1 << 11 != 0),
            mode: DeliveryMode::from_bits((self.0 >> 8) as u32),
            vector: self.vector(),
            level: self.level(),
            redirect: false,
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Registers {
    id: u8,
    select: u8,
    table: [Entry; PINS],
    /// Which pins are asserted.
    levels: u32,
}

impl Saved for Registers {
    const KIND: &'static str = "ioapic";
    const VERSION: u16 = 1;
}

impl Registers {
    fn reset(id: u8) -> Self {
        Self {
            id,
            select: 0,
            table: [Entry(Entry::MASKED); PINS],
            levels: 0,
        }
    }

    /// Says on the bus what a pin sends, if that has an end.
    fn tell(&self, pin: usize, bus: &ApicBus) {
        let e = self.table[pin];
        bus.set_level(pin, Some(e.message()).filter(|_| e.level()).as_ref());
    }

    /// Sends a pin's interrupt if it is time to. `edge`: the pin has just become asserted.
    fn service(&mut self, pin: usize, edge: bool, bus: &ApicBus) {
        let e = &mut self.table[pin];
        if e.masked() || self.levels & 1 << pin == 0 {
            return;
        }
        if e.level() {
            // A level nobody accepts is offered again when its entry or its pin changes.
            if !e.in_service() && bus.deliver(&e.message()) && Self::has_eoi(*e) {
                e.0 |= Entry::REMOTE_IRR;
            }
        } else if edge {
            bus.deliver(&e.message());
        }
    }

    /// Only vectored deliveries are ended by an EOI; others are edges whatever the trigger bit says.
    fn has_eoi(e: Entry) -> bool {
        matches!(
            e.message().mode,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
        )
    }

    fn read(&self) -> u32 {
        match self.select {
            REG_ID | REG_ARBITRATION => (self.id as u32) << 24,
            REG_VERSION => VERSION,
            r @ REG_TABLE..=REG_TABLE_LAST => {
                let r = (r - REG_TABLE) as usize;
                (self.table[r / 2].0 >> (r % 2 * 32)) as u32
            }
            _ => 0,
        }
    }

    fn write(&mut self, value: u32, bus: &ApicBus) {
        match self.select {
            REG_ID => self.id = (value >> 24) as u8 & 15,
            r @ REG_TABLE..=REG_TABLE_LAST => {
                let r = (r - REG_TABLE) as usize;
                let (pin, shift) = (r / 2, r % 2 * 32);
                let e = &mut self.table[pin];
                let writable = Entry::WRITABLE & 0xffff_ffff << shift;
                e.0 = e.0 & !writable | (value as u64) << shift & writable;
                if !e.level() {
                    // How software ends an interrupt by hand: it makes the entry an edge for a moment.
                    e.0 &= !Entry::REMOTE_IRR;
                }
                self.tell(pin, bus);
                self.service(pin, false, bus);
            }
            _ => {}
        }
    }

    fn end_of_interrupt(&mut self, vector: u8, bus: &ApicBus) {
        for pin in 0..PINS {
            let e = &mut self.table[pin];
            if e.level() && e.in_service() && e.vector() == vector {
                e.0 &= !Entry::REMOTE_IRR;
                self.service(pin, false, bus);
            }
        }
    }
}

/// A 24-pin I/O APIC.
pub struct IoApic {
    initial_id: u8,
    bus: Arc<ApicBus>,
    registers: Lock<Registers>,
}

impl IoApic {
    /// An I/O APIC that sends on `bus`. `id` is its ID after reset.
    pub fn new(id: u8, bus: &Arc<ApicBus>) -> Arc<Self> {
        let id = id & 15;
        let ioapic = Arc::new(Self {
            initial_id: id,
            bus: bus.clone(),
            registers: Lock::new(Registers::reset(id)),
        });
        let weak: Weak<Self> = Arc::downgrade(&ioapic);
        bus.add_eoi_sink(weak);
        ioapic
    }

    /// An input pin, 0-23. Others lead nowhere.
    pub fn pin(self: &Arc<Self>, pin: u8) -> Arc<dyn LineSink> {
        if pin as usize >= PINS {
            return Arc::new(crate::line::Unconnected);
        }
        Arc::new(Pin {
            ioapic: self.clone(),
            pin: pin as usize,
        })
    }

    fn set(&self, pin: usize, level: bool) {
        let mut r = self.registers.lock();
        let was = r.levels & 1 << pin != 0;
        if level == was {
            return;
        }
        r.levels ^= 1 << pin;
        if level {
            r.service(pin, true, &self.bus);
        }
    }
}

struct Pin {
    ioapic: Arc<IoApic>,
    pin: usize,
}

impl LineSink for Pin {
    fn set(&self, level: bool) {
        self.ioapic.set(self.pin, level);
    }
}

impl EoiSink for IoApic {
    fn end_of_interrupt(&self, vector: u8) {
        self.registers.lock().end_of_interrupt(vector, &self.bus);
    }
}

impl MmioDevice for IoApic {
    fn widest(&self) -> u8 {
        4
    }

    fn read(&self, offset: u64, _: u8) -> u64 {
        let r = self.registers.lock();
        // Registers are 32 bits wide at 16-byte strides; a narrower access gets its part.
        let value = match offset & !3 & 0xff {
            IOREGSEL => r.select as u32,
            IOWIN => r.read(),
            _ => 0,
        };
        (value >> (offset % 4 * 8)) as u64
    }

    fn write(&self, offset: u64, _: u8, value: u64) {
        let mut r = self.registers.lock();
        match offset & 0xff {
            IOREGSEL => r.select = value as u8,
            IOWIN => r.write(value as u32, &self.bus),
            EOIR => r.end_of_interrupt(value as u8, &self.bus),
            _ => {}
        }
    }
}

impl Lifecycle for IoApic {
    fn reset(&self) {
        let mut r = self.registers.lock();
        let levels = r.levels;
        *r = Registers {
            levels,
            ..Registers::reset(self.initial_id)
        };
        (0..PINS).for_each(|pin| r.tell(pin, &self.bus));
    }

    fn migrate(&self) -> Migrate {
        self.registers.lock().save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let state = Registers::open(record)?;
        let legal = Entry::WRITABLE | Entry::REMOTE_IRR;
        if state.id > 15 || state.levels >> PINS != 0 || state.table.iter().any(|e| e.0 & !legal != 0) {
            return Err(Registers::damaged("reserved register bits are set"));
        }
        (0..PINS).for_each(|pin| state.tell(pin, &self.bus));
        *self.registers.lock() = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
