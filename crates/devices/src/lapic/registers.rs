//! The registers behind the lock: everything but the vectors and priorities.

use serde::{Deserialize, Serialize};

/// Offsets in the 4 KiB page (Intel SDM vol. 3A table 11-1); an x2APIC MSR is 0x800 + offset / 16.
#[allow(missing_docs)]
pub(super) mod offset {
    pub const ID: u16 = 0x20;
    pub const VERSION: u16 = 0x30;
    pub const TPR: u16 = 0x80;
    pub const APR: u16 = 0x90;
    pub const PPR: u16 = 0xa0;
    pub const EOI: u16 = 0xb0;
    pub const RRD: u16 = 0xc0;
    pub const LDR: u16 = 0xd0;
    pub const DFR: u16 = 0xe0;
    pub const SVR: u16 = 0xf0;
    pub const ISR: u16 = 0x100;
    pub const ISR_LAST: u16 = 0x170;
    pub const TMR: u16 = 0x180;
    pub const TMR_LAST: u16 = 0x1f0;
    pub const IRR: u16 = 0x200;
    pub const IRR_LAST: u16 = 0x270;
    pub const ESR: u16 = 0x280;
    pub const LVT_CMCI: u16 = 0x2f0;
    pub const ICR: u16 = 0x300;
    pub const ICR_HIGH: u16 = 0x310;
    pub const LVT_TIMER: u16 = 0x320;
    pub const LVT_ERROR: u16 = 0x370;
    pub const INITIAL_COUNT: u16 = 0x380;
    pub const CURRENT_COUNT: u16 = 0x390;
    pub const DIVIDE: u16 = 0x3e0;
    pub const SELF_IPI: u16 = 0x3f0;
}

/// Error status bits (Intel SDM vol. 3A §11.5.3).
pub(super) mod error {
    pub const SEND_ILLEGAL_VECTOR: u8 = 1 << 5;
    pub const RECEIVE_ILLEGAL_VECTOR: u8 = 1 << 6;
    pub const ILLEGAL_REGISTER: u8 = 1 << 7;
}

/// Entries of the local vector table (Intel SDM vol. 3A §11.5.1), in the order of their offsets from 0x320,
/// CMCI last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(super) enum Lvt {
    Timer,
    Thermal,
    Performance,
    Lint0,
    Lint1,
    Error,
    Cmci,
}

impl Lvt {
    pub const COUNT: usize = 7;
    pub const MASKED: u32 = 1 << 16;

    pub fn at(offset: u16) -> Option<Self> {
        use Lvt::*;
        match offset {
            offset::LVT_CMCI => Some(Cmci),
            offset::LVT_TIMER..=offset::LVT_ERROR => [Timer, Thermal, Performance, Lint0, Lint1, Error]
                .get((offset - offset::LVT_TIMER) as usize / 16)
                .copied(),
            _ => None,
        }
    }

    /// Bits that can be written.
    pub fn writable(self) -> u32 {
        match self {
            Lvt::Timer => 0x7_00ff,
            Lvt::Thermal | Lvt::Performance | Lvt::Cmci => 0x1_07ff,
            Lvt::Lint0 | Lvt::Lint1 => 0x1_a7ff,
            Lvt::Error => 0x1_00ff,
        }
    }

    /// Bits that exist, delivery status and remote IRR included. Others must be zero in x2APIC mode.
    pub fn defined(self) -> u32 {
        let remote_irr = if matches!(self, Lvt::Lint0 | Lvt::Lint1) {
            1 << 14
        } else {
            0
        };
        self.writable() | 1 << 12 | remote_irr
    }
}

/// Spurious-interrupt vector register: APIC software enable.
pub(super) const SVR_ENABLE: u32 = 1 << 8;
/// Spurious-interrupt vector register: no EOI broadcasts.
pub(super) const SVR_NO_BROADCAST: u32 = 1 << 12;
/// Bits of the spurious-interrupt vector register that exist. Focus checking went with the APIC bus.
pub(super) const SVR_DEFINED: u32 = 0xff | SVR_ENABLE | SVR_NO_BROADCAST;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Registers {
    pub ldr: u32,
    pub dfr: u32,
    pub svr: u32,
    /// What ESR reads as: the errors up to the last write to it.
    pub esr: u8,
    /// Errors since.
    pub errors: u8,
    pub icr: u64,
    pub lvt: [u32; Lvt::COUNT],
    /// Levels at the LINT pins.
    pub lint: [bool; 2],
    /// Divide configuration.
    pub divide: u32,
    pub initial_count: u32,
    /// When the timer expires next, in nanoseconds, whether or not that interrupts.
    pub timer_due: Option<u64>,
    /// IA32_TSC_DEADLINE; 0 is disarmed.
    pub tsc_deadline: u64,
}

impl Registers {
    /// The state after power-up or INIT (Intel SDM vol. 3A §11.4.7.1, 11.4.7.3).
    pub fn reset() -> Self {
        Self {
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [Lvt::MASKED; Lvt::COUNT],
            lint: [false; 2],
            divide: 0,
            initial_count: 0,
            timer_due: None,
            tsc_deadline: 0,
        }
    }

    pub fn lvt(&self, which: Lvt) -> u32 {
        self.lvt[which as usize]
    }

    /// An unmasked entry.
    pub fn active(&self, which: Lvt) -> Option<u32> {
        let v = self.lvt(which);
        (v & Lvt::MASKED == 0).then_some(v)
    }

    pub fn software_enabled(&self) -> bool {
        self.svr & SVR_ENABLE != 0
    }
}
