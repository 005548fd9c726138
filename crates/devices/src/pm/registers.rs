//! The registers as a function of time (ACPI Specification 6.5 §4.8.3 and 4.8.4).

use super::{SLEEP_TYPE_S5, TIMER_HZ};
use crate::state::Saved;
use serde::{Deserialize, Serialize};

/// PM1 status and enable bits.
pub(super) mod event {
    pub const TIMER: u16 = 1 << 0;
    pub const GLOBAL: u16 = 1 << 5;
    pub const POWER_BUTTON: u16 = 1 << 8;
    pub const SLEEP_BUTTON: u16 = 1 << 9;
    pub const CLOCK: u16 = 1 << 10;
    pub const WAKE: u16 = 1 << 15;
    pub const STATUS: u16 = TIMER | 1 << 4 | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | CLOCK | WAKE;
    pub const ENABLE: u16 = TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | CLOCK;
}

/// PM1 control bits.
mod control {
    pub const SCI_ENABLE: u16 = 1 << 0;
    pub const BUS_MASTER_RELOAD: u16 = 1 << 1;
    pub const SLEEP_TYPE: u16 = 7 << 10;
    pub const SLEEP_ENABLE: u16 = 1 << 13;
    /// Bits that keep what is written; the others are write-only or fixed.
    pub const KEPT: u16 = BUS_MASTER_RELOAD | SLEEP_TYPE;
}

/// What a write asks of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    None,
    PowerOff,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Registers {
    pub status: u16,
    pub enable: u16,
    pub control: u16,
    pub gpe_status: u16,
    pub gpe_enable: u16,
    /// 24 or 32.
    pub timer_bits: u8,
    /// When the timer's carry was last looked at, in nanoseconds.
    pub settled: u64,
}

impl Saved for Registers {
    const KIND: &'static str = "pm";
    const VERSION: u16 = 1;
}

/// Timer ticks at a time.
fn ticks(nanoseconds: u64) -> u64 {
    (nanoseconds as u128 * TIMER_HZ as u128 / 1_000_000_000) as u64
}

impl Registers {
    pub fn reset(timer_bits: u8) -> Self {
        Self {
            status: 0,
            enable: 0,
            control: 0,
            gpe_status: 0,
            gpe_enable: 0,
            timer_bits,
            settled: 0,
        }
    }

    pub fn timer(&self, now: u64) -> u32 {
        let mask = if self.timer_bits == 24 {
            0xff_ffff
        } else {
            u32::MAX
        };
        ticks(now) as u32 & mask
    }

    /// How often the timer's top bit has changed by a time: TMR_STS is set at each change.
    fn carries(&self, now: u64) -> u64 {
        ticks(now) >> (self.timer_bits - 1)
    }

    pub fn settle(&mut self, now: u64) {
        if self.carries(self.settled) != self.carries(now) {
            self.status |= event::TIMER;
        }
        self.settled = now;
    }

    /// When the timer interrupts next, in nanoseconds.
    pub fn next_event(&self) -> Option<u64> {
        if self.enable & event::TIMER == 0 || self.status & event::TIMER != 0 {
            return None;
        }
        let tick = (self.carries(self.settled) as u128 + 1) << (self.timer_bits - 1);
        Some(
            (tick * 1_000_000_000)
                .div_ceil(TIMER_HZ as u128)
                .min(u64::MAX as u128) as u64,
        )
    }

    /// The system control interrupt.
    pub fn sci(&self) -> bool {
        self.status & self.enable & event::ENABLE != 0 || self.gpe_status & self.gpe_enable != 0
    }

    pub fn event(&self) -> u32 {
        self.status as u32 | (self.enable as u32) << 16
    }

    pub fn write_event(&mut self, value: u32, mask: u32) -> Effect {
        // Status bits are cleared by writing ones.
        self.status &= !(value as u16);
        let mask = (mask >> 16) as u16;
        self.enable = (self.enable & !mask | (value >> 16) as u16 & mask) & event::ENABLE;
        Effect::None
    }

    pub fn control(&self) -> u32 {
        (self.control | control::SCI_ENABLE) as u32
    }

    pub fn write_control(&mut self, value: u32, mask: u32) -> Effect {
        let (value, mask) = (value as u16, mask as u16);
        self.control = (self.control & !mask | value & mask) & control::KEPT;
        if value & control::SLEEP_ENABLE == 0 {
            return Effect::None;
        }
        if self.control & control::SLEEP_TYPE == (SLEEP_TYPE_S5 as u16) << 10 {
            return Effect::PowerOff;
        }
        // No other sleep state is offered; one that is asked for all the same ends at once.
        self.status |= event::WAKE;
        Effect::None
    }

    pub fn gpe0(&self) -> u32 {
        self.gpe_status as u32 | (self.gpe_enable as u32) << 16
    }

    pub fn write_gpe0(&mut self, value: u32, mask: u32) -> Effect {
        self.gpe_status &= !(value as u16);
        let mask = (mask >> 16) as u16;
        self.gpe_enable = self.gpe_enable & !mask | (value >> 16) as u16 & mask;
        Effect::None
    }

    /// Whether saved registers are some that can exist.
    pub fn is_legal(&self) -> bool {
        matches!(self.timer_bits, 24 | 32)
            && self.status & !event::STATUS == 0
            && self.enable & !event::ENABLE == 0
            && self.control & !control::KEPT == 0
    }
}
