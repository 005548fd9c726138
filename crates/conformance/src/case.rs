//! One case: the state before, the code, and what memory holds.

use crate::generate::jump;
use crate::layout::{CODE, SCRATCH, STUB_FALL, selector};
use crate::regs::Regs;
use donjon_x86::bits::rflags;
use iced_x86::Code;

/// How the processor reads the code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mode {
    /// 64-bit mode.
    Long,
    /// Compatibility mode, 32-bit code segment.
    Compat32,
    /// Compatibility mode, 16-bit code segment.
    Compat16,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Long, Self::Compat32, Self::Compat16];

    /// Default operand-size family, as decoders count it.
    pub fn bits(self) -> u32 {
        match self {
            Self::Long => 64,
            Self::Compat32 => 32,
            Self::Compat16 => 16,
        }
    }

    /// General-purpose registers it can name.
    pub fn registers(self) -> u8 {
        if self == Self::Long { 16 } else { 8 }
    }
}

/// Bytes to put into code memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CodeBytes {
    /// Linear address.
    pub address: u64,
    /// How many of `bytes`.
    pub len: usize,
    /// The bytes.
    pub bytes: [u8; CodeBytes::MAX],
}

impl CodeBytes {
    /// The most bytes: the longest instruction and the longest jump.
    pub const MAX: usize = 24;

    /// Those bytes at that address.
    pub fn new(address: u64, bytes: &[u8]) -> Self {
        let mut b = [0; Self::MAX];
        b[..bytes.len()].copy_from_slice(bytes);
        Self {
            address,
            len: bytes.len(),
            bytes: b,
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Bytes to put into the scratch area before the case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patch {
    /// Offset in the scratch area.
    pub offset: usize,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// One case.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    /// Its number under the seed.
    pub index: u64,
    /// The form it is meant for (invalid prefixes may turn it into another).
    pub code: Code,
    /// How it is read.
    pub mode: Mode,
    /// The state before.
    pub before: Regs,
    /// Bytes of the tested instruction.
    pub length: usize,
    /// The tested instruction first, then jumps at branch targets.
    pub program: Vec<CodeBytes>,
    /// Changes to the scratch area's background.
    pub patches: Vec<Patch>,
}

impl Case {
    /// The most pieces of code of a case of one instruction; more are a program.
    pub const PIECES: usize = 3;

    /// A case of these bytes in a plain state, which `change` adjusts: registers zero, the stack pointer in
    /// the middle of the scratch area, everything masked.
    pub fn of_bytes(mode: Mode, bytes: &[u8], change: impl FnOnce(&mut Regs)) -> Self {
        let start = CODE + 0x400;
        let code = match mode {
            Mode::Long => selector::CODE64,
            Mode::Compat32 => selector::CODE32,
            Mode::Compat16 => selector::CODE16,
        };
        let data = if mode == Mode::Long { 0 } else { selector::DATA };
        let mut before = Regs {
            rip: if mode == Mode::Compat16 {
                start - CODE
            } else {
                start
            },
            rflags: rflags::ONE | rflags::IF,
            selectors: [data, code, selector::DATA, data, 0, 0],
            mxcsr: 0x1f80,
            ..Regs::default()
        };
        before.gpr[4] = SCRATCH + 0x800;
        change(&mut before);
        let mut program = bytes.to_vec();
        program.extend_from_slice(&jump(start + bytes.len() as u64, STUB_FALL, mode));
        Self {
            index: 0,
            code: Code::INVALID,
            mode,
            before,
            length: bytes.len(),
            program: vec![CodeBytes::new(start, &program)],
            patches: Vec::new(),
        }
    }

    /// The tested instruction's bytes.
    pub fn instruction(&self) -> &[u8] {
        &self.program[0].bytes[..self.length]
    }

    /// The scratch area the case starts from.
    pub fn scratch_before(&self, background: &[u64]) -> Vec<u64> {
        let mut bytes: Vec<u8> = background.iter().flat_map(|w| w.to_le_bytes()).collect();
        for p in &self.patches {
            bytes[p.offset..p.offset + p.bytes.len()].copy_from_slice(&p.bytes);
        }
        let (words, _) = bytes.as_chunks::<8>();
        words.iter().map(|w| u64::from_le_bytes(*w)).collect()
    }
}
