//! The CMOS real-time clock of a PC (Motorola MC146818A datasheet; Intel 82371AB datasheet §7.4).

mod calendar;
mod clock;
#[cfg(test)]
mod tests;

use crate::bus::PortDevice;
use crate::line::LineSink;
use crate::state::{Lifecycle, Migrate, Record, RestoreError, Saved};
use crate::sync::Lock;
use crate::timer::{Timer, Timers};
use clock::Chip;
use std::sync::{Arc, Weak};

impl Saved for Chip {
    const KIND: &'static str = "rtc";
    const VERSION: u16 = 1;
}

/// The clock, its alarm and 128 bytes of memory, as two ports: index (the NMI mask in its bit 7 is ignored)
/// and data.
pub struct Rtc {
    interrupt: Arc<dyn LineSink>,
    timer: Timer,
    chip: Lock<Chip>,
}

impl Rtc {
    /// A clock set to the time of day that the board's clock started with, whose interrupt goes to
    /// `interrupt` (IRQ 8).
    pub fn new(timers: &Timers, interrupt: Arc<dyn LineSink>) -> Arc<Self> {
        let clock = timers.clock();
        let chip = Chip::new(clock.wall_at_start().as_nanos() as i128, clock.nanoseconds());
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let timer = timers.timer_of(weak, |me| me.with(|_, _| ()));
            Self {
                interrupt,
                timer,
                chip: Lock::new(chip),
            }
        })
    }

    /// Sets a byte of memory, 0x0e-0x7f, as firmware setup would. Time is not set this way.
    pub fn set(&self, index: u8, value: u8) {
        if (0x0e..0x80).contains(&index) && index != clock::register::CENTURY {
            self.chip.lock().memory[index as usize] = value;
        }
    }

    /// A byte of memory. Register contents are not read this way.
    pub fn get(&self, index: u8) -> u8 {
        self.chip.lock().memory[index as usize & 127]
    }

    /// The reason for the last processor reset, as software left it (0x0f).
    pub fn shutdown_status(&self) -> u8 {
        self.get(0x0f)
    }

    /// Stores the sizes of memory in the bytes where PC firmware has them: base (0x15), extended (0x17, 0x30),
    /// above 16 MiB (0x34) and above 4 GiB (0x5b).
    pub fn set_memory_size(&self, below_4g: u64, above_4g: u64) {
        let put = |at: u8, bytes: usize, value: u64| {
            for (i, b) in value.to_le_bytes().into_iter().take(bytes).enumerate() {
                self.set(at + i as u8, b);
            }
        };
        let kib_above_1m = below_4g.saturating_sub(1 << 20) >> 10;
        put(0x15, 2, 640.min(below_4g >> 10));
        put(0x17, 2, kib_above_1m.min(0xffff));
        put(0x30, 2, kib_above_1m.min(0xffff));
        put(0x34, 2, (below_4g.saturating_sub(16 << 20) >> 16).min(0xffff));
        put(0x5b, 3, (above_4g >> 16).min(0xff_ffff));
    }

    /// Runs `f` at the present, then drives the interrupt.
    fn with<T>(&self, f: impl FnOnce(&mut Chip, u64) -> T) -> T {
        let mut chip = self.chip.lock();
        let now = self.timer.now();
        chip.settle(now);
        let value = f(&mut chip, now);
        self.interrupt.set(chip.interrupting());
        self.timer.set(chip.next_event(now));
        value
    }
}

impl PortDevice for Rtc {
    fn widest(&self) -> u8 {
        1
    }

    fn read(&self, offset: u16, _: u8) -> u32 {
        match offset & 1 {
            // The index cannot be read.
            0 => 0xff,
            _ => self.with(|c, now| c.read(now)) as u32,
        }
    }

    fn write(&self, offset: u16, _: u8, value: u32) {
        match offset & 1 {
            0 => self.chip.lock().index = value as u8 & 0x7f,
            _ => self.with(|c, now| c.write(value as u8, now)),
        }
    }
}

impl Lifecycle for Rtc {
    fn reset(&self) {
        self.with(|c, _| c.reset());
    }

    fn migrate(&self) -> Migrate {
        self.with(|c, _| c.clone()).save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let chip = Chip::open(record)?;
        if !chip.is_legal() {
            return Err(Chip::damaged("impossible clock registers"));
        }
        self.with(|c, now| {
            *c = Chip {
                settled: chip.settled.min(now),
                ..chip
            };
            c.settle(now);
        });
        Ok(())
    }
}
