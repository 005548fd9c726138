//! ACPI fixed hardware (ACPI Specification 6.5 §4.8): the PM1 event and control registers, the power
//! management timer and one general-purpose event block; and the reset control register of Intel chipsets
//! (Intel 82371AB datasheet §7.6, port 0xcf9).
//!
//! There is no system-management mode, so there is no SMI command port: the FADT says SMI_CMD = 0, the machine
//! is always in ACPI mode and SCI_EN always set.

mod registers;
mod reset_control;
#[cfg(test)]
mod tests;

pub use reset_control::ResetControl;

use crate::bus::PortDevice;
use crate::line::LineSink;
use crate::state::{Lifecycle, Migrate, Record, RestoreError, Saved};
use crate::sync::Lock;
use crate::timer::{Timer, Timers};
use registers::{Effect, Registers};
use std::sync::{Arc, Weak};

/// Frequency of the power management timer.
pub const TIMER_HZ: u64 = 3_579_545;
/// Bytes of the PM1a event block: PM1_EVT_LEN.
pub const EVENT_LEN: u64 = 4;
/// Bytes of the PM1a control block: PM1_CNT_LEN.
pub const CONTROL_LEN: u64 = 2;
/// Bytes of the power management timer block: PM_TMR_LEN.
pub const TIMER_LEN: u64 = 4;
/// Bytes of the general-purpose event block: GPE0_BLK_LEN, half status and half enable.
pub const GPE0_LEN: u64 = 4;
/// General-purpose events.
pub const GPES: u8 = 16;
/// What the `\_S5` object must say: the sleep type that turns the machine off.
pub const SLEEP_TYPE_S5: u8 = 5;

/// What the guest can do to the machine. Called on a vCPU thread with nothing locked; the vCPU goes on until
/// the owner stops it.
pub trait PowerSink: Send + Sync {
    /// Turn the machine off.
    fn power_off(&self);
    /// Reset it.
    fn reset(&self);
}

/// Whether the power management timer wraps at 24 or at 32 bits: TMR_VAL_EXT of the FADT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerWidth {
    /// 24 bits.
    Bits24,
    /// 32 bits: TMR_VAL_EXT is set.
    Bits32,
}

/// The registers behind the FADT's block addresses.
pub struct Pm {
    sci: Arc<dyn LineSink>,
    power: Arc<dyn PowerSink>,
    timer: Timer,
    registers: Lock<Registers>,
}

impl Pm {
    /// Fixed hardware with a 32-bit timer, whose SCI (level-triggered) goes to `sci`.
    pub fn new(timers: &Timers, sci: Arc<dyn LineSink>, power: Arc<dyn PowerSink>) -> Arc<Self> {
        Self::with_timer_width(timers, sci, power, TimerWidth::Bits32)
    }

    /// As [`Pm::new`], with a choice of timers.
    pub fn with_timer_width(
        timers: &Timers,
        sci: Arc<dyn LineSink>,
        power: Arc<dyn PowerSink>,
        width: TimerWidth,
    ) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let timer = timers.timer_of(weak, |me| me.with(|_| ()));
            let bits = if width == TimerWidth::Bits24 { 24 } else { 32 };
            Self {
                sci,
                power,
                timer,
                registers: Lock::new(Registers::reset(bits)),
            }
        })
    }

    /// The PM1a event block: [`EVENT_LEN`] ports.
    pub fn event(self: &Arc<Self>) -> Arc<dyn PortDevice> {
        self.block(Block::Event)
    }

    /// The PM1a control block: [`CONTROL_LEN`] ports.
    pub fn control(self: &Arc<Self>) -> Arc<dyn PortDevice> {
        self.block(Block::Control)
    }

    /// The power management timer: [`TIMER_LEN`] ports.
    pub fn timer(self: &Arc<Self>) -> Arc<dyn PortDevice> {
        self.block(Block::Timer)
    }

    /// The general-purpose event block: [`GPE0_LEN`] ports.
    pub fn gpe0(self: &Arc<Self>) -> Arc<dyn PortDevice> {
        self.block(Block::Gpe0)
    }

    fn block(self: &Arc<Self>, block: Block) -> Arc<dyn PortDevice> {
        Arc::new(Window {
            pm: self.clone(),
            block,
        })
    }

    /// Presses the power button: asks the guest to shut down.
    pub fn press_power_button(&self) {
        self.with(|r| r.status |= registers::event::POWER_BUTTON);
    }

    /// Presses the sleep button.
    pub fn press_sleep_button(&self) {
        self.with(|r| r.status |= registers::event::SLEEP_BUTTON);
    }

    /// Raises general-purpose event `gpe`, 0-15, as hotplug does.
    pub fn raise_gpe(&self, gpe: u8) {
        if gpe < GPES {
            self.with(|r| r.gpe_status |= 1 << gpe);
        }
    }

    /// Runs `f`, then drives the SCI and the host's timer.
    fn with<T>(&self, f: impl FnOnce(&mut Registers) -> T) -> T {
        let mut r = self.registers.lock();
        r.settle(self.timer.now());
        let value = f(&mut r);
        self.sci.set(r.sci());
        self.timer.set(r.next_event());
        value
    }
}

#[derive(Clone, Copy)]
enum Block {
    Event,
    Control,
    Timer,
    Gpe0,
}

struct Window {
    pm: Arc<Pm>,
    block: Block,
}

impl PortDevice for Window {
    fn read(&self, offset: u16, _: u8) -> u32 {
        let shift = offset as u32 % 4 * 8;
        match self.block {
            // Time only: no line can change by it being read.
            Block::Timer => self.pm.registers.lock().timer(self.pm.timer.now()) >> shift,
            Block::Event => self.pm.with(|r| r.event()) >> shift,
            Block::Control => self.pm.with(|r| r.control()) >> shift,
            Block::Gpe0 => self.pm.with(|r| r.gpe0()) >> shift,
        }
    }

    fn write(&self, offset: u16, size: u8, value: u32) {
        let shift = offset as u32 % 4 * 8;
        let mask = (u32::MAX >> (32 - size.clamp(1, 4) as u32 * 8)) << shift;
        let value = value << shift & mask;
        let effect = self.pm.with(|r| match self.block {
            Block::Timer => Effect::None,
            Block::Event => r.write_event(value, mask),
            Block::Control => r.write_control(value, mask),
            Block::Gpe0 => r.write_gpe0(value, mask),
        });
        match effect {
            Effect::None => {}
            Effect::PowerOff => self.pm.power.power_off(),
        }
    }
}

impl Lifecycle for Pm {
    fn reset(&self) {
        self.with(|r| {
            *r = Registers {
                settled: r.settled,
                ..Registers::reset(r.timer_bits)
            }
        });
    }

    fn migrate(&self) -> Migrate {
        self.with(|r| r.clone()).save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let state = Registers::open(record)?;
        if !state.is_legal() {
            return Err(Registers::damaged("reserved register bits are set"));
        }
        self.with(|r| {
            let now = r.settled;
            *r = Registers {
                settled: state.settled.min(now),
                ..state
            };
            r.settle(now);
        });
        Ok(())
    }
}
