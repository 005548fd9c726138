//! What a case did, the same whoever ran it.

use crate::case::Mode;
use crate::layout::{PAGE, STUB};
use crate::regs::Regs;
use donjon_x86::bits::rflags;

/// The first address a program cannot have: the last page of the lower half (Linux, TASK_SIZE_MAX).
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// How a case ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It reached one of the stubs; RIP says which.
    Completed,
    /// An exception was delivered.
    Exception {
        /// Vector.
        vector: u8,
        /// Error code, 0 if there is none.
        error_code: u32,
        /// CR2, for a page fault.
        cr2: Option<u64>,
    },
    /// It never ended (an engine's answer only).
    Hung,
    /// The processor shut down or the engine gave up (an engine's answer only).
    Failed(String),
}

/// What a case left behind.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The registers then.
    pub after: Regs,
    /// Words of the scratch area that changed, by offset, in ascending order.
    pub memory: Vec<(usize, u64)>,
}

impl Outcome {
    /// Takes out what differs between a host program and a guest for reasons of their kernels.
    pub fn normalize(&mut self, mode: Mode) {
        let on_stub = (STUB..STUB + PAGE).contains(&self.after.rip);
        if self.end == End::Completed || on_stub {
            // RF belongs to the fault the guest's stub raises, not to the case.
            self.after.rflags &= !rflags::RF;
        }
        if let End::Exception {
            vector: 14,
            error_code,
            cr2: Some(address),
        } = &mut self.end
            && *address >= TASK_SIZE
        {
            // For addresses beyond a program's reach Linux reports every fault as a protection violation
            // (arch/x86/mm/fault.c, sanitize_error_code).
            *error_code &= !1;
        }
        if self.end != End::Completed {
            // The return from the host's kernel makes any null selector 0.
            for s in &mut self.after.selectors {
                *s = if *s < 4 { 0 } else { *s };
            }
        }
        if mode != Mode::Long {
            // Registers' upper halves are undefined after compatibility mode (Intel SDM vol. 1 §3.4.1.1).
            self.after.gpr[..8].iter_mut().for_each(|r| *r &= 0xffff_ffff);
        }
    }
}
