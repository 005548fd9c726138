//! The registers of a 16550A (National Semiconductor PC16550D datasheet, TL/C/8652), apart from time and the
//! outside world.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes in each FIFO.
pub(super) const FIFO: usize = 16;

pub(super) mod ier {
    pub const RECEIVED: u8 = 0x01;
    pub const TRANSMIT_EMPTY: u8 = 0x02;
    pub const LINE_STATUS: u8 = 0x04;
    pub const MODEM_STATUS: u8 = 0x08;
    pub const ALL: u8 = 0x0f;
}

pub(super) mod iir {
    pub const NONE: u8 = 0x01;
    pub const MODEM_STATUS: u8 = 0x00;
    pub const TRANSMIT_EMPTY: u8 = 0x02;
    pub const RECEIVED: u8 = 0x04;
    pub const LINE_STATUS: u8 = 0x06;
    pub const TIMEOUT: u8 = 0x0c;
    pub const FIFOS: u8 = 0xc0;
}

pub(super) mod fcr {
    pub const ENABLE: u8 = 0x01;
    pub const CLEAR_RECEIVER: u8 = 0x02;
    pub const DMA_AND_TRIGGER: u8 = 0xc8;
}

pub(super) mod lcr {
    pub const DLAB: u8 = 0x80;
}

pub(super) mod mcr {
    pub const DTR: u8 = 0x01;
    pub const RTS: u8 = 0x02;
    pub const OUT1: u8 = 0x04;
    pub const OUT2: u8 = 0x08;
    pub const LOOP: u8 = 0x10;
    pub const ALL: u8 = 0x1f;
}

pub(super) mod lsr {
    pub const DATA_READY: u8 = 0x01;
    pub const OVERRUN: u8 = 0x02;
    pub const BREAK: u8 = 0x10;
    pub const ERRORS: u8 = 0x1e;
    pub const THR_EMPTY: u8 = 0x20;
    pub const TRANSMITTER_EMPTY: u8 = 0x40;
}

pub(super) mod msr {
    pub const CTS: u8 = 0x10;
    pub const DSR: u8 = 0x20;
    pub const RI: u8 = 0x40;
    pub const DCD: u8 = 0x80;
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Uart {
    pub ier: u8,
    pub fcr: u8,
    pub lcr: u8,
    pub mcr: u8,
    /// Error bits of LSR; the others follow from the FIFOs.
    pub errors: u8,
    /// Modem inputs and, in the low half, which have changed since MSR was read.
    pub msr: u8,
    pub scratch: u8,
    pub divisor: u16,
    pub receiver: VecDeque<u8>,
    /// The transmitter-empty interrupt is due: it is withdrawn by reading IIR or writing THR.
    pub thre_due: bool,
    /// The far end keeps up.
    pub draining: bool,
}

/// The far end is always there: a terminal that is on and ready.
const CONNECTED: u8 = msr::CTS | msr::DSR | msr::DCD;

impl Uart {
    pub fn new() -> Self {
        Self {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            errors: 0,
            msr: CONNECTED,
            scratch: 0,
            // 9600 baud, what firmware sets.
            divisor: 12,
            receiver: VecDeque::with_capacity(FIFO),
            thre_due: false,
            draining: true,
        }
    }

    fn fifos(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    fn trigger(&self) -> usize {
        if self.fifos() {
            [1, 4, 8, 14][self.fcr as usize >> 6]
        } else {
            1
        }
    }

    pub fn looped(&self) -> bool {
        self.mcr & mcr::LOOP != 0
    }

    /// Bytes the receiver can take.
    pub fn room(&self) -> usize {
        let capacity = if self.fifos() { FIFO } else { 1 };
        capacity.saturating_sub(self.receiver.len())
    }

    /// A byte from the wire. One that finds no room is lost, with an overrun error.
    pub fn receive(&mut self, byte: u8) {
        if self.room() > 0 {
            self.receiver.push_back(byte);
        } else {
            self.errors |= lsr::OVERRUN;
        }
    }

    /// Interrupt identification, highest priority first (datasheet table 5).
    pub fn iir(&self) -> u8 {
        let n = self.receiver.len();
        let enabled = |bit| self.ier & bit != 0;
        let cause = if enabled(ier::LINE_STATUS) && self.errors != 0 {
            iir::LINE_STATUS
        } else if enabled(ier::RECEIVED) && n >= self.trigger() {
            iir::RECEIVED
        } else if enabled(ier::RECEIVED) && n > 0 {
            // Below the trigger level four character times must pass without another one. What comes here
            // comes in bursts that are over at once, so they have.
            iir::TIMEOUT
        } else if enabled(ier::TRANSMIT_EMPTY) && self.thre_due && self.draining {
            iir::TRANSMIT_EMPTY
        } else if enabled(ier::MODEM_STATUS) && self.msr & 15 != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        };
        cause | if self.fifos() { iir::FIFOS } else { 0 }
    }

    pub fn interrupting(&self) -> bool {
        self.iir() & iir::NONE == 0
    }

    fn lsr(&self) -> u8 {
        let ready = if self.receiver.is_empty() {
            0
        } else {
            lsr::DATA_READY
        };
        let empty = if self.draining {
            lsr::THR_EMPTY | lsr::TRANSMITTER_EMPTY
        } else {
            0
        };
        let in_fifo = if self.fifos() && self.errors & !lsr::OVERRUN != 0 {
            0x80
        } else {
            0
        };
        ready | self.errors | empty | in_fifo
    }

    pub fn read(&mut self, register: u16) -> u8 {
        match (register & 7, self.lcr & lcr::DLAB != 0) {
            (0, true) => self.divisor as u8,
            (1, true) => (self.divisor >> 8) as u8,
            (0, false) => self.receiver.pop_front().unwrap_or(0),
            (1, false) => self.ier,
            (2, _) => {
                let iir = self.iir();
                if iir & 0xf == iir::TRANSMIT_EMPTY {
                    self.thre_due = false;
                }
                iir
            }
            (3, _) => self.lcr,
            (4, _) => self.mcr,
            (5, _) => {
                let lsr = self.lsr();
                self.errors = 0;
                lsr
            }
            (6, _) => {
                let msr = self.msr;
                self.msr &= 0xf0;
                msr
            }
            _ => self.scratch,
        }
    }

    /// Returns a byte to send, if that is what the write was.
    pub fn write(&mut self, register: u16, value: u8) -> Option<u8> {
        match (register & 7, self.lcr & lcr::DLAB != 0) {
            (0, true) => self.divisor = self.divisor & 0xff00 | value as u16,
            (1, true) => self.divisor = self.divisor & 0x00ff | (value as u16) << 8,
            (0, false) => {
                // Sent at once, so the transmitter is empty again.
                self.thre_due = true;
                if !self.looped() {
                    return Some(value);
                }
                self.receive(value);
            }
            (1, false) => {
                let rises = value & !self.ier & ier::TRANSMIT_EMPTY != 0;
                self.ier = value & ier::ALL;
                // Enabling it while the transmitter is empty is a cause (datasheet, "Interrupt Enable").
                if rises {
                    self.thre_due = true;
                }
            }
            (2, _) => self.set_fcr(value),
            (3, _) => self.lcr = value,
            (4, _) => {
                self.mcr = value & mcr::ALL;
                self.update_modem();
            }
            (5 | 6, _) => {}
            _ => self.scratch = value,
        }
        None
    }

    fn set_fcr(&mut self, value: u8) {
        let toggles = (value ^ self.fcr) & fcr::ENABLE != 0;
        // Changing the mode clears the FIFOs; the other bits need the mode (datasheet, "FIFO Control").
        if toggles || value & fcr::ENABLE != 0 && value & fcr::CLEAR_RECEIVER != 0 {
            self.receiver.clear();
        }
        self.fcr = if value & fcr::ENABLE != 0 {
            value & (fcr::DMA_AND_TRIGGER | fcr::ENABLE)
        } else {
            0
        };
    }

    /// Modem inputs: from our own outputs in loopback (datasheet, "Modem Control"), else from the far end.
    fn update_modem(&mut self) {
        let inputs = if self.looped() {
            [
                (mcr::DTR, msr::DSR),
                (mcr::RTS, msr::CTS),
                (mcr::OUT1, msr::RI),
                (mcr::OUT2, msr::DCD),
            ]
            .into_iter()
            .fold(
                0,
                |n, (out, input)| if self.mcr & out != 0 { n | input } else { n },
            )
        } else {
            CONNECTED
        };
        let mut changed = (self.msr ^ inputs) >> 4;
        if inputs & msr::RI != 0 {
            // Only the end of a ring counts.
            changed &= !(msr::RI >> 4);
        }
        self.msr = inputs | self.msr & 15 | changed;
    }

    /// A break from the far end: a zero byte that stands for it (datasheet, "Line Status", bit 4).
    pub fn receive_break(&mut self) {
        if !self.looped() {
            self.receive(0);
            self.errors |= lsr::BREAK;
        }
    }

    /// Whether a saved chip is one that can exist.
    pub fn is_legal(&self) -> bool {
        let capacity = if self.fifos() { FIFO } else { 1 };
        self.receiver.len() <= capacity
            && self.ier & !ier::ALL == 0
            && self.fcr & !(fcr::DMA_AND_TRIGGER | fcr::ENABLE) == 0
            && (self.fifos() || self.fcr == 0)
            && self.mcr & !mcr::ALL == 0
            && self.errors & !lsr::ERRORS == 0
    }
}
