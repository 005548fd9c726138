//! Programs of many instructions, compared at their end or at their first fault.
//!
//! A [`Program`] is a list of [`Item`]s that is laid out in memory only when it is run, so that items can
//! be taken out of it and what is left still makes sense. [`block`] and [`control`] make them, [`taint`]
//! knows which flags are undefined where, [`check`] compares, [`run`] does it many times and [`reduce`]
//! makes what failed small.

pub mod block;
pub mod check;
pub mod control;
mod emit;
mod idioms;
pub(crate) mod known;
mod layout;
pub mod listing;
mod place;
mod pool;
pub mod reduce;
mod replay;
pub mod run;
pub mod taint;

pub use layout::{Layout, Place};
pub use replay::replay;

use crate::case::{Case, CodeBytes, Mode, Patch};
use crate::encode::Bytes;
use crate::layout::{CODE, STUB_FALL};
use crate::regs::Regs;
use iced_x86::Code;

/// Offset in the scratch area of the stack of programs that start with an empty one.
pub const FIRST_STACK: u64 = emit::STACK;

/// A place in a program that others refer to.
pub type Label = usize;

/// How an instruction leads to a label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Branch {
    /// JMP.
    Always,
    /// Jcc with this condition code.
    If(u8),
    /// CALL.
    Call,
    /// LOOPNE, LOOPE, LOOP or JrCXZ, by the last digit of its opcode: NOP where it does not reach.
    Count(u8),
    /// The same with an address-size prefix: half of the counter.
    CountHalf(u8),
}

/// One instruction, or a label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item {
    /// These bytes.
    Plain(Bytes),
    /// The 32 bits at `at` are relative to the next instruction and lead to `to`.
    Relative {
        /// The instruction.
        bytes: Bytes,
        /// Offset of the displacement.
        at: usize,
        /// The address.
        to: u64,
    },
    /// The 32 bits at `at` are the address of a label, and some more.
    Address {
        /// The instruction.
        bytes: Bytes,
        /// Offset of the address.
        at: usize,
        /// The label.
        label: Label,
        /// What is added.
        plus: u32,
    },
    /// A branch; `short` asks for an 8-bit displacement where it reaches.
    Branch {
        /// Which.
        branch: Branch,
        /// Where to.
        label: Label,
        /// In how few bytes.
        short: bool,
    },
    /// The next instruction's address is known by this name.
    Label(Label),
}

/// A program and the state it starts in.
#[derive(Clone, PartialEq, Debug)]
pub struct Program {
    /// Its number under the seed.
    pub index: u64,
    /// How it is read.
    pub mode: Mode,
    /// Where it begins.
    pub start: u64,
    /// Its instructions; behind the last it is completed.
    pub items: Vec<Item>,
    /// The state before.
    pub before: Regs,
    /// What the scratch area holds besides the background.
    pub patches: Vec<Patch>,
}

impl Program {
    /// Instructions in it.
    pub fn len(&self) -> usize {
        self.items.iter().filter(|i| !matches!(i, Item::Label(_))).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What runs: the program, and behind it the way out.
    pub fn case(&self, layout: &Layout) -> Case {
        let mut bytes = layout.bytes.clone();
        let end = self.start + bytes.len() as u64;
        bytes.extend_from_slice(&crate::generate::jump(end, STUB_FALL, self.mode));
        let mut before = self.before.clone();
        before.rip = match self.mode {
            Mode::Compat16 => self.start - CODE,
            _ => self.start,
        };
        // The worker and the guest clear all code memory after a program, however short it is.
        let size = (bytes.len() / (Case::PIECES + 1)).clamp(1, CodeBytes::MAX);
        Case {
            index: self.index,
            code: Code::INVALID,
            mode: self.mode,
            before,
            length: 0,
            program: (bytes.chunks(size).enumerate())
                .map(|(n, b)| CodeBytes::new(self.start + (n * size) as u64, b))
                .collect(),
            patches: self.patches.clone(),
        }
    }
}
