//! One decoded guest instruction.

use crate::cpu::{Cpu, R};

/// The function that executes an instruction. It finds RIP at the instruction and [`Cpu::next_rip`]
/// behind it; a branch changes the latter. On a fault nothing but memory already written has changed.
pub type Handler = fn(&mut Cpu, &Op) -> R;

/// A decoded instruction: its handler and its operands.
///
/// Register operands are numbers: 0-15 for general, vector and MMX registers in encoding order (x87: the
/// stack index), [`Op::HIGH_BYTE`] + 0-3 for AH CH DH BH.
#[derive(Clone, Copy)]
pub struct Op {
    /// Executes it.
    pub run: Handler,
    /// The (last) immediate, extended as the encoding says; a near branch's displacement from the
    /// instruction's own address.
    pub imm: u64,
    /// Displacement of the memory operand. RIP-relative ones count from the instruction's own address.
    pub disp: u64,
    /// Length in bytes, 1-15.
    pub len: u8,
    /// Register number of operand 0.
    pub a: u8,
    /// Register number of operand 1.
    pub b: u8,
    /// Register number of operand 2.
    pub c: u8,
    /// Register number of operand 3.
    pub d: u8,
    /// Which operand is in memory; [`Op::NO_MEMORY`] if none.
    pub mem: u8,
    /// Base of the memory operand: a register number, [`Op::ZERO`] or [`Op::RIP`].
    pub base: u8,
    /// Index register of the memory operand, or [`Op::ZERO`]. For VSIB, the vector register.
    pub index: u8,
    /// log2 of the index scale.
    pub scale: u8,
    /// Segment of the memory operand, overrides applied ([`donjon_x86::Seg`] numbers).
    pub seg: u8,
    /// Effective-address size: 0, 1, 2 for 16, 32, 64 bits.
    pub address_size: u8,
    /// Operand size: 0, 1, 2, 3 for 8, 16, 32, 64 bits, where a handler needs it.
    pub size: u8,
    /// Handler-specific: condition code, REP prefix, …
    pub x: u8,
    /// [`Op::LOCK`] and others.
    pub bits: u8,
}

impl Op {
    /// First number of the high-byte registers.
    pub const HIGH_BYTE: u8 = 20;
    /// The register that is always zero.
    pub const ZERO: u8 = 16;
    /// The register that holds RIP.
    pub const RIP: u8 = 17;
    /// [`Op::mem`] when no operand is in memory.
    pub const NO_MEMORY: u8 = 0xff;
    /// In [`Op::bits`]: LOCK prefix (or an XCHG with memory, which implies it).
    pub const LOCK: u8 = 1;
    /// In [`Op::bits`]: the block ends here.
    pub const ENDS_BLOCK: u8 = 2;
    /// In [`Op::bits`]: F3 prefix (REP, REPE).
    pub const REP: u8 = 4;
    /// In [`Op::bits`]: F2 prefix (REPNE).
    pub const REPNE: u8 = 8;

    /// Whether operand `n` is in memory.
    #[inline(always)]
    pub fn is_mem(&self, n: u8) -> bool {
        self.mem == n
    }

    /// Whether it has a LOCK prefix.
    #[inline(always)]
    pub fn locked(&self) -> bool {
        self.bits & Self::LOCK != 0
    }
}
