//! The two cascaded 8259A interrupt controllers of a PC, with the edge/level control registers of its
//! chipset (Intel 8259A datasheet, 231468-003; Intel 82371AB datasheet §7.1 for ELCR).

mod chip;
#[cfg(test)]
mod tests;

use crate::bus::PortDevice;
use crate::lapic::ExtInt;
use crate::line::{LineSink, Unconnected};
use crate::state::{Lifecycle, Migrate, Record, RestoreError, Saved};
use crate::sync::Lock;
use chip::{CASCADE, Chip};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Pins that can be level-triggered: the timer, keyboard, cascade, clock and coprocessor cannot.
const ELCR: [u8; 2] = [0xf8, 0xde];

#[derive(Clone, Default, Serialize, Deserialize)]
struct Pair {
    chips: [Chip; 2],
}

impl Saved for Pair {
    const KIND: &'static str = "pic";
    const VERSION: u16 = 1;
}

impl Pair {
    /// Carries the second chip's output to the first; the first's output.
    fn settle(&mut self) -> bool {
        let slave = self.chips[1].pending(false).is_some();
        self.chips[0].set_cascade(slave);
        self.chips[0].pending(true).is_some()
    }

    fn acknowledge(&mut self) -> u8 {
        match self.chips[0].acknowledge(true) {
            Some(CASCADE) => {
                let pin = self.chips[1].acknowledge(false);
                self.chips[1].vector(pin)
            }
            pin => self.chips[0].vector(pin),
        }
    }
}

/// The interrupt controllers: sixteen inputs, one output.
pub struct Pic {
    output: Arc<dyn LineSink>,
    pair: Lock<Pair>,
}

impl Pic {
    /// Controllers whose INTR goes to `output`, LINT0 of the bootstrap processor.
    pub fn new(output: Arc<dyn LineSink>) -> Arc<Self> {
        Arc::new(Self {
            output,
            pair: Lock::default(),
        })
    }

    /// Interrupt request line 0-15. Line 2 is the cascade: it and others lead nowhere.
    pub fn irq(self: &Arc<Self>, irq: u8) -> Arc<dyn LineSink> {
        if irq == CASCADE || irq > 15 {
            return Arc::new(Unconnected);
        }
        Arc::new(Irq {
            pic: self.clone(),
            irq,
        })
    }

    /// Ports of the first chip: two, at 0x20.
    pub fn first(self: &Arc<Self>) -> Arc<dyn PortDevice> {
        Arc::new(Ports {
            pic: self.clone(),
            chip: 0,
        })
    }

    /// Ports of the second chip: two, at 0xa0.
    pub fn second(self: &Arc<Self>) -> Arc<dyn PortDevice> {
        Arc::new(Ports {
            pic: self.clone(),
            chip: 1,
        })
    }

    /// Edge/level control: two ports, at 0x4d0.
    pub fn elcr(self: &Arc<Self>) -> Arc<dyn PortDevice> {
        Arc::new(Elcr(self.clone()))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Pair) -> T) -> T {
        let mut pair = self.pair.lock();
        let value = f(&mut pair);
        // Told under the lock: see the crate's lock order.
        self.output.set(pair.settle());
        value
    }
}

impl ExtInt for Pic {
    fn acknowledge(&self) -> u8 {
        self.with(Pair::acknowledge)
    }
}

struct Irq {
    pic: Arc<Pic>,
    irq: u8,
}

impl LineSink for Irq {
    fn set(&self, level: bool) {
        self.pic
            .with(|p| p.chips[self.irq as usize / 8 % 2].set_line(self.irq % 8, level));
    }
}

struct Ports {
    pic: Arc<Pic>,
    chip: usize,
}

impl PortDevice for Ports {
    fn widest(&self) -> u8 {
        1
    }

    fn read(&self, offset: u16, _: u8) -> u32 {
        self.pic
            .with(|p| p.chips[self.chip].read(offset & 1 != 0, self.chip == 0)) as u32
    }

    fn write(&self, offset: u16, _: u8, value: u32) {
        self.pic
            .with(|p| p.chips[self.chip].write(offset & 1 != 0, value as u8));
    }
}

struct Elcr(Arc<Pic>);

impl PortDevice for Elcr {
    fn widest(&self) -> u8 {
        1
    }

    fn read(&self, offset: u16, _: u8) -> u32 {
        self.0.pair.lock().chips[offset as usize & 1].elcr() as u32
    }

    fn write(&self, offset: u16, _: u8, value: u32) {
        let chip = offset as usize & 1;
        self.0.with(|p| p.chips[chip].set_elcr(value as u8 & ELCR[chip]));
    }
}

impl Lifecycle for Pic {
    fn reset(&self) {
        self.with(|p| p.chips.iter_mut().for_each(Chip::reset));
    }

    fn migrate(&self) -> Migrate {
        self.pair.lock().save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let state = Pair::open(record)?;
        if !state
            .chips
            .iter()
            .zip(ELCR)
            .all(|(chip, elcr)| chip.is_legal(elcr))
        {
            return Err(Pair::damaged("impossible 8259 registers"));
        }
        self.with(|p| *p = state);
        Ok(())
    }
}
