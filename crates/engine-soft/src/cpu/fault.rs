//! Faults on their way from the instruction that meets them to delivery.

use super::Cpu;
use donjon_x86::exception;

/// Why a handler did not simply finish. Details of a fault are in [`Cpu::fault`], so that the common
/// result fits a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Stop {
    /// An exception before or during the instruction: RIP stays.
    Fault,
    /// The instruction is done, but what was decoded after it may no longer hold.
    EndBlock,
    /// The instruction wants to run again once attention has been looked at (a long REP).
    Again,
    /// HLT is done.
    Halt,
    /// Triple fault.
    Shutdown,
}

/// Result of anything that can fault.
pub(crate) type R<T = ()> = Result<T, Stop>;

/// An exception to deliver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Fault {
    pub vector: u8,
    /// `None` for exceptions that push none.
    pub code: Option<u32>,
    /// A trap: RIP already points behind the instruction.
    pub trap: bool,
    /// Delivered by INT n, INT3, INTO or INT1 rather than met.
    pub software: Option<Software>,
    /// From the interrupt controller: benign whatever its vector.
    pub external: bool,
}

/// How a software interrupt was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Software {
    /// INT n, INT3, INTO: gate DPL is checked.
    Int,
    /// INT1: it is not.
    Icebp,
}

impl Cpu {
    /// An exception without error code.
    #[cold]
    pub fn raise(&mut self, vector: u8) -> Stop {
        self.fault = Fault {
            vector,
            ..Fault::default()
        };
        Stop::Fault
    }

    /// An exception with error code.
    #[cold]
    pub fn raise_code(&mut self, vector: u8, code: u32) -> Stop {
        self.fault = Fault {
            vector,
            code: Some(code),
            ..Fault::default()
        };
        Stop::Fault
    }

    /// #GP(code).
    pub fn gp(&mut self, code: u16) -> Stop {
        self.raise_code(exception::GP, code as u32)
    }

    /// #UD.
    pub fn ud(&mut self) -> Stop {
        self.raise(exception::UD)
    }
}
