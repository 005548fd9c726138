//! The reset control register (Intel 82371AB datasheet §7.6; Intel 300 Series PCH datasheet, RST_CNT).

use super::PowerSink;
use crate::bus::PortDevice;
use crate::state::{Lifecycle, Migrate, Record, RestoreError, Saved};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

/// Bit 1 chooses a hard reset, bit 3 a power cycle; a rise of bit 2 resets.
const WRITABLE: u8 = 0x0e;
const RESET: u8 = 0x04;

#[derive(Serialize, Deserialize)]
struct State {
    value: u8,
}

impl Saved for State {
    const KIND: &'static str = "reset-control";
    const VERSION: u16 = 1;
}

/// One port, at 0xcf9: the FADT's RESET_REG, with RESET_VALUE 6 (ACPI Specification 6.5 §4.8.3.6).
pub struct ResetControl {
    power: Arc<dyn PowerSink>,
    value: AtomicU8,
}

impl ResetControl {
    /// A register that resets `power`.
    pub fn new(power: Arc<dyn PowerSink>) -> Arc<Self> {
        Arc::new(Self {
            power,
            value: AtomicU8::new(0),
        })
    }
}

impl PortDevice for ResetControl {
    fn widest(&self) -> u8 {
        1
    }

    fn read(&self, _: u16, _: u8) -> u32 {
        self.value.load(SeqCst) as u32
    }

    fn write(&self, _: u16, _: u8, value: u32) {
        let value = value as u8 & WRITABLE;
        let was = self.value.swap(value, SeqCst);
        if value & !was & RESET != 0 {
            self.power.reset();
        }
    }
}

impl Lifecycle for ResetControl {
    fn reset(&self) {
        self.value.store(0, SeqCst);
    }

    fn migrate(&self) -> Migrate {
        State {
            value: self.value.load(SeqCst),
        }
        .save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let state = State::open(record)?;
        if state.value & !WRITABLE != 0 {
            return Err(State::damaged("reserved register bits are set"));
        }
        self.value.store(state.value, SeqCst);
        Ok(())
    }
}
