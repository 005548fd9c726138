//! One 8259A (Intel 8259A datasheet, 231468-003).

use serde::{Deserialize, Serialize};

/// What the next write to the odd port is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
enum Expect {
    /// OCW1: the mask.
    #[default]
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Chip {
    /// Levels at the pins.
    lines: u8,
    /// Edges latched (bits whose pin is edge-triggered).
    latched: u8,
    mask: u8,
    in_service: u8,
    /// Edge/level control register.
    elcr: u8,
    /// Vector of IR0.
    base: u8,
    /// The pin of highest priority.
    top: u8,
    expect: Expect,
    /// ICW1: no ICW3 will come.
    single: bool,
    /// ICW1: ICW4 will come.
    wants_icw4: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    /// ICW4: a slave's requests are let through while another of its is in service.
    fully_nested: bool,
    special_mask: bool,
    read_in_service: bool,
    poll: bool,
}

/// The pin that the second chip is connected to.
pub(super) const CASCADE: u8 = 2;
/// What a chip answers when the request has gone: its lowest input.
const SPURIOUS: u8 = 7;

impl Chip {
    /// Interrupt request register.
    fn requests(&self) -> u8 {
        self.latched & !self.elcr | self.lines & self.elcr
    }

    /// The order of `pin`, 0 is first.
    fn order(&self, pin: u8) -> u8 {
        pin.wrapping_sub(self.top) & 7
    }

    fn first(&self, set: u8) -> Option<u8> {
        (0..8)
            .map(|i| (self.top + i) & 7)
            .find(|&pin| set & 1 << pin != 0)
    }

    /// The request that INT is about, if any. `master`: the chip that has a slave.
    pub fn pending(&self, master: bool) -> Option<u8> {
        let request = self.first(self.requests() & !self.mask)?;
        let mut blocking = self.in_service;
        if self.special_mask {
            // A masked interrupt in service inhibits nobody (datasheet, "Special Mask Mode").
            blocking &= !self.mask;
        }
        if master && self.fully_nested {
            blocking &= !(1 << CASCADE) | if request == CASCADE { 0 } else { 1 << CASCADE };
        }
        match self.first(blocking) {
            Some(busy) if self.order(busy) <= self.order(request) => None,
            _ => Some(request),
        }
    }

    pub fn set_line(&mut self, pin: u8, level: bool) {
        let bit = 1 << (pin & 7);
        if level {
            self.latched |= bit & !self.lines;
            self.lines |= bit;
        } else {
            // An edge stays latched although a real chip forgets it when the pin falls before the
            // acknowledge: guests must not see a spurious IRQ7 for every pulse they are slow to take.
            self.lines &= !bit;
        }
    }

    /// The second chip's output at the first. It drops for a moment at each acknowledge, so one that is still
    /// high is a new edge.
    pub fn set_cascade(&mut self, level: bool) {
        let bit = 1 << CASCADE;
        if level {
            self.lines |= bit;
            self.latched |= bit;
        } else {
            self.lines &= !bit;
            self.latched &= !bit;
        }
    }

    /// The interrupt-acknowledge cycle: the pin, in service from now on; `None` if the request has gone.
    pub fn acknowledge(&mut self, master: bool) -> Option<u8> {
        let pin = self.pending(master)?;
        self.latched &= !(1 << pin);
        if !self.auto_eoi {
            self.in_service |= 1 << pin;
        } else if self.rotate_on_auto_eoi {
            self.top = (pin + 1) & 7;
        }
        Some(pin)
    }

    /// The vector of a pin, or the spurious one.
    pub fn vector(&self, pin: Option<u8>) -> u8 {
        self.base | pin.unwrap_or(SPURIOUS)
    }

    pub fn read(&mut self, odd: bool, master: bool) -> u8 {
        if std::mem::take(&mut self.poll) {
            // The read is the acknowledge (datasheet, "Poll Command").
            return self.acknowledge(master).map_or(0, |pin| 0x80 | pin);
        }
        match (odd, self.read_in_service) {
            (true, _) => self.mask,
            (false, true) => self.in_service,
            (false, false) => self.requests(),
        }
    }

    pub fn write(&mut self, odd: bool, value: u8) {
        if odd {
            self.write_odd(value);
        } else if value & 0x10 != 0 {
            self.icw1(value);
        } else if value & 8 != 0 {
            self.ocw3(value);
        } else {
            self.ocw2(value);
        }
    }

    /// Starts initialization. Level mode (LTIM) is ignored: ELCR took its place.
    fn icw1(&mut self, value: u8) {
        *self = Self {
            lines: self.lines,
            elcr: self.elcr,
            base: self.base,
            expect: Expect::Icw2,
            single: value & 2 != 0,
            wants_icw4: value & 1 != 0,
            ..Self::default()
        };
    }

    fn write_odd(&mut self, value: u8) {
        let last = if self.wants_icw4 {
            Expect::Icw4
        } else {
            Expect::Mask
        };
        match self.expect {
            Expect::Mask => self.mask = value,
            Expect::Icw2 => {
                self.base = value & 0xf8;
                self.expect = if self.single { last } else { Expect::Icw3 };
            }
            // The cascade is wired: pin 2, slave identity 2.
            Expect::Icw3 => self.expect = last,
            Expect::Icw4 => {
                self.fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 2 != 0;
                self.expect = Expect::Mask;
            }
        }
    }

    fn ocw2(&mut self, value: u8) {
        let pin = value & 7;
        // R, SL, EOI (datasheet, figure 8).
        match value >> 5 {
            0b001 => self.end(None, false),
            0b101 => self.end(None, true),
            0b011 => self.end(Some(pin), false),
            0b111 => self.end(Some(pin), true),
            0b110 => self.top = (pin + 1) & 7,
            0b100 => self.rotate_on_auto_eoi = true,
            0b000 => self.rotate_on_auto_eoi = false,
            _ => {}
        }
    }

    /// EOI, of the highest in service if none is named.
    fn end(&mut self, pin: Option<u8>, rotate: bool) {
        // In special mask mode a masked interrupt is not ended by a non-specific EOI (datasheet, "End of
        // Interrupt").
        let candidates = if self.special_mask {
            self.in_service & !self.mask
        } else {
            self.in_service
        };
        let Some(pin) = pin.or_else(|| self.first(candidates)) else {
            return;
        };
        self.in_service &= !(1 << pin);
        if rotate {
            self.top = (pin + 1) & 7;
        }
    }

    fn ocw3(&mut self, value: u8) {
        self.poll = value & 4 != 0;
        if value & 2 != 0 {
            self.read_in_service = value & 1 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }

    pub fn elcr(&self) -> u8 {
        self.elcr
    }

    pub fn set_elcr(&mut self, value: u8) {
        self.elcr = value;
        // A pin that becomes an edge starts without one.
        self.latched &= !value;
    }

    /// Power-on reset; pins keep their levels.
    pub fn reset(&mut self) {
        *self = Self {
            lines: self.lines,
            ..Self::default()
        };
    }

    /// Whether a saved chip is one that can exist.
    pub fn is_legal(&self, elcr: u8) -> bool {
        self.top < 8 && self.base & 7 == 0 && self.elcr & !elcr == 0
    }
}
