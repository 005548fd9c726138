//! A small x86-64 assembler: just what translated code is made of.
//!
//! Everything goes through two encoders, one for the legacy opcode maps and one for VEX; the rest are
//! names for what they are called with. Encodings: Intel SDM vol. 2A ch. 2.

/// Host registers by number.
pub mod host {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RBX: u8 = 3;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
    pub const R8: u8 = 8;
    pub const R11: u8 = 11;
    pub const R12: u8 = 12;
    pub const R13: u8 = 13;
    pub const R14: u8 = 14;
    pub const R15: u8 = 15;
}

/// A memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mem {
    pub base: Option<u8>,
    pub index: Option<u8>,
    /// log2 of the scale.
    pub scale: u8,
    pub disp: i32,
}

impl Mem {
    /// `[base + disp]`.
    pub fn at(base: u8, disp: i32) -> Self {
        Self {
            base: Some(base),
            index: None,
            scale: 0,
            disp,
        }
    }

    /// `[base + index + disp]`.
    pub fn indexed(base: u8, index: u8, disp: i32) -> Self {
        Self {
            index: Some(index),
            ..Self::at(base, disp)
        }
    }
}

/// A register or memory operand, as ModRM encodes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rm {
    Reg(u8),
    Mem(Mem),
}

/// Opcode maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Map {
    One = 0,
    Two = 1,
    T38 = 2,
    T3A = 3,
}

/// What stands before the opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prefix {
    pub lock: bool,
    /// 66.
    pub data16: bool,
    /// F2 or F3; zero for none.
    pub rep: u8,
    /// REX.W or VEX.W.
    pub wide: bool,
    /// A REX prefix even if it says nothing: byte registers 4-7 are then SPL to DIL.
    pub rex: bool,
}

/// 64-bit operands.
pub const WIDE: Prefix = Prefix {
    lock: false,
    data16: false,
    rep: 0,
    wide: true,
    rex: false,
};
/// 32-bit operands.
pub const NARROW: Prefix = Prefix { wide: false, ..WIDE };

/// Condition codes used by name.
pub mod cc {
    pub const E: u8 = 4;
    pub const NE: u8 = 5;
    pub const A: u8 = 7;
}

/// ALU operations, by their number in opcode bits 3-5.
pub mod alu {
    pub const ADD: u8 = 0;
    pub const OR: u8 = 1;
    pub const AND: u8 = 4;
    pub const XOR: u8 = 6;
    pub const CMP: u8 = 7;
}

/// A place that code jumps to before or after it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(usize);

/// A stretch of code, and where in the arena it goes.
struct Section {
    buf: Vec<u8>,
    base: usize,
}

/// Code being put together, the usual course and what is out of the way in two places. Positions are
/// offsets in the arena.
pub struct Asm {
    sections: [Section; 2],
    /// Which section grows.
    now: usize,
    labels: Vec<Option<usize>>,
    /// Places of 32-bit displacements that wait for a label: section and offset in it.
    fixups: Vec<(usize, usize, Label)>,
}

impl Asm {
    /// Starts at arena offset `base`, what is out of the way at `cold`.
    pub fn new(base: usize, cold: usize) -> Self {
        let section = |base| Section {
            buf: Vec::with_capacity(1024),
            base,
        };
        Self {
            sections: [section(base), section(cold)],
            now: 0,
            labels: vec![],
            fixups: vec![],
        }
    }

    /// Where the next byte goes.
    pub fn here(&self) -> usize {
        let s = &self.sections[self.now];
        s.base + s.buf.len()
    }

    /// From now on the code is out of the way.
    pub fn go_cold(&mut self) {
        self.now = 1;
    }

    fn byte(&mut self, b: u8) {
        self.sections[self.now].buf.push(b);
    }

    /// A label to be bound later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// A label at the present place.
    pub fn bound(&mut self) -> Label {
        let l = self.label();
        self.bind(l);
        l
    }

    /// Binds a label to the present place.
    pub fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(self.here());
    }

    /// Where a label is bound.
    pub fn position(&self, label: Label) -> usize {
        self.labels[label.0].expect("bound by now")
    }

    /// The code, with every label in place.
    pub fn finish(mut self) -> [Vec<u8>; 2] {
        for (section, at, label) in std::mem::take(&mut self.fixups) {
            let to = self.labels[label.0].expect("every label that is used gets bound");
            let s = &mut self.sections[section];
            let rel = (to as i64 - (s.base + at + 4) as i64) as i32;
            s.buf[at..at + 4].copy_from_slice(&rel.to_le_bytes());
        }
        self.sections.map(|s| s.buf)
    }

    pub fn bytes(&mut self, b: &[u8]) {
        self.sections[self.now].buf.extend_from_slice(b);
    }

    fn prefixes(&mut self, p: Prefix) {
        if p.lock {
            self.byte(0xf0);
        }
        if p.data16 {
            self.byte(0x66);
        }
        if p.rep != 0 {
            self.byte(p.rep);
        }
    }

    /// REX.X and REX.B (VEX: the same, inverted) of an operand.
    fn high_bits(rm: &Rm) -> (u8, u8) {
        match rm {
            Rm::Reg(r) => (0, r >> 3),
            Rm::Mem(m) => (m.index.unwrap_or(0) >> 3, m.base.unwrap_or(0) >> 3),
        }
    }

    fn modrm(&mut self, reg: u8, rm: &Rm) {
        let reg = (reg & 7) << 3;
        let m = match rm {
            Rm::Reg(r) => return self.byte(0xc0 | reg | r & 7),
            Rm::Mem(m) => m,
        };
        let Some(base) = m.base else {
            // No base: a SIB byte with base 5 and a 32-bit displacement.
            let index = m.index.map_or(4, |i| i & 7);
            self.bytes(&[reg | 4, m.scale << 6 | index << 3 | 5]);
            return self.bytes(&m.disp.to_le_bytes());
        };
        let short = i8::try_from(m.disp).is_ok();
        let mode = match m.disp {
            0 if base & 7 != 5 => 0,
            _ if short => 0x40,
            _ => 0x80,
        };
        match m.index {
            Some(i) => {
                debug_assert_ne!(i, host::RSP);
                self.bytes(&[mode | reg | 4, m.scale << 6 | (i & 7) << 3 | base & 7]);
            }
            None if base & 7 == 4 => self.bytes(&[mode | reg | 4, 0x24]),
            None => self.byte(mode | reg | base & 7),
        }
        match mode {
            0 => {}
            0x40 => self.byte(m.disp as u8),
            _ => self.bytes(&m.disp.to_le_bytes()),
        }
    }

    /// An instruction of the legacy maps with a ModRM byte.
    pub fn legacy(&mut self, p: Prefix, map: Map, opcode: u8, reg: u8, rm: Rm) {
        self.prefixes(p);
        let (x, b) = Self::high_bits(&rm);
        let rex = (p.wide as u8) << 3 | (reg >> 3) << 2 | x << 1 | b;
        if rex != 0 || p.rex {
            self.byte(0x40 | rex);
        }
        match map {
            Map::One => {}
            Map::Two => self.byte(0x0f),
            Map::T38 => self.bytes(&[0x0f, 0x38]),
            Map::T3A => self.bytes(&[0x0f, 0x3a]),
        }
        self.byte(opcode);
        self.modrm(reg, &rm);
    }

    /// An instruction with a VEX prefix. `pp` is its prefix field, `long` VEX.L.
    #[allow(clippy::too_many_arguments)]
    pub fn vex(&mut self, pp: u8, wide: bool, long: bool, map: Map, opcode: u8, reg: u8, v: u8, rm: Rm) {
        let (x, b) = Self::high_bits(&rm);
        let tail = ((!v & 15) << 3) | (long as u8) << 2 | pp;
        if map == Map::Two && !wide && x == 0 && b == 0 {
            self.bytes(&[0xc5, (!reg >> 3 & 1) << 7 | tail]);
        } else {
            let first = (!reg >> 3 & 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | map as u8;
            self.bytes(&[0xc4, first, (wide as u8) << 7 | tail]);
        }
        self.byte(opcode);
        self.modrm(reg, &rm);
    }

    /// 64-bit load.
    pub fn load(&mut self, reg: u8, m: Mem) {
        self.legacy(WIDE, Map::One, 0x8b, reg, Rm::Mem(m));
    }

    /// 32-bit load.
    pub fn load32(&mut self, reg: u8, m: Mem) {
        self.legacy(NARROW, Map::One, 0x8b, reg, Rm::Mem(m));
    }

    /// 64-bit store.
    pub fn store(&mut self, m: Mem, reg: u8) {
        self.legacy(WIDE, Map::One, 0x89, reg, Rm::Mem(m));
    }

    /// 32-bit store.
    pub fn store32(&mut self, m: Mem, reg: u8) {
        self.legacy(NARROW, Map::One, 0x89, reg, Rm::Mem(m));
    }

    /// Stores a 32-bit immediate.
    pub fn store32_imm(&mut self, m: Mem, v: u32) {
        self.legacy(NARROW, Map::One, 0xc7, 0, Rm::Mem(m));
        self.bytes(&v.to_le_bytes());
    }

    /// 64-bit register move.
    pub fn mov(&mut self, to: u8, from: u8) {
        self.legacy(WIDE, Map::One, 0x8b, to, Rm::Reg(from));
    }

    /// 32-bit register move.
    pub fn mov32(&mut self, to: u8, from: u8) {
        self.legacy(NARROW, Map::One, 0x8b, to, Rm::Reg(from));
    }

    /// Loads a 32-bit immediate, zero-extended.
    pub fn mov32_imm(&mut self, to: u8, v: u32) {
        if to >= 8 {
            self.byte(0x41);
        }
        self.byte(0xb8 | to & 7);
        self.bytes(&v.to_le_bytes());
    }

    /// LEA, 64-bit.
    pub fn lea(&mut self, to: u8, m: Mem) {
        self.legacy(WIDE, Map::One, 0x8d, to, Rm::Mem(m));
    }

    /// `reg op= rm`, an [`alu`] operation.
    pub fn alu(&mut self, p: Prefix, op: u8, reg: u8, rm: Rm) {
        self.legacy(p, Map::One, op << 3 | 3, reg, rm);
    }

    /// `rm op= imm`.
    pub fn alu_imm(&mut self, p: Prefix, op: u8, rm: Rm, imm: i32) {
        if let Ok(short) = i8::try_from(imm) {
            self.legacy(p, Map::One, 0x83, op, rm);
            self.byte(short as u8);
        } else {
            self.legacy(p, Map::One, 0x81, op, rm);
            self.bytes(&imm.to_le_bytes());
        }
    }

    /// RORX: rotates right without touching flags.
    pub fn rorx(&mut self, to: u8, from: u8, by: u8) {
        self.vex(3, true, false, Map::T3A, 0xf0, to, 0, Rm::Reg(from));
        self.byte(by);
    }

    fn rel32(&mut self, to: usize) {
        let rel = (to as i64 - (self.here() + 4) as i64) as i32;
        self.bytes(&rel.to_le_bytes());
    }

    fn rel32_label(&mut self, to: Label) {
        let at = self.sections[self.now].buf.len();
        self.fixups.push((self.now, at, to));
        self.bytes(&[0; 4]);
    }

    /// JMP to an arena offset.
    pub fn jmp(&mut self, to: usize) {
        self.byte(0xe9);
        self.rel32(to);
    }

    /// JMP to a label.
    pub fn jmp_label(&mut self, to: Label) {
        self.byte(0xe9);
        self.rel32_label(to);
    }

    /// Jcc to a label.
    pub fn jcc(&mut self, cc: u8, to: Label) {
        self.bytes(&[0x0f, 0x80 | cc]);
        self.rel32_label(to);
    }

    /// CALL to an arena offset.
    pub fn call(&mut self, to: usize) {
        self.byte(0xe8);
        self.rel32(to);
    }

    /// JMP through memory or a register.
    pub fn jmp_rm(&mut self, rm: Rm) {
        self.legacy(NARROW, Map::One, 0xff, 4, rm);
    }

    /// CALL through memory.
    pub fn call_rm(&mut self, rm: Rm) {
        self.legacy(NARROW, Map::One, 0xff, 2, rm);
    }

    pub fn push(&mut self, reg: u8) {
        if reg >= 8 {
            self.byte(0x41);
        }
        self.byte(0x50 | reg & 7);
    }

    pub fn pop(&mut self, reg: u8) {
        if reg >= 8 {
            self.byte(0x41);
        }
        self.byte(0x58 | reg & 7);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind, Register};

    fn decode(code: &[u8]) -> Instruction {
        let mut d = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
        let i = d.decode();
        assert_eq!(i.len(), code.len(), "{code:02x?}");
        i
    }

    fn register(n: u8) -> Register {
        const R: [Register; 16] = [
            Register::RAX,
            Register::RCX,
            Register::RDX,
            Register::RBX,
            Register::RSP,
            Register::RBP,
            Register::RSI,
            Register::RDI,
            Register::R8,
            Register::R9,
            Register::R10,
            Register::R11,
            Register::R12,
            Register::R13,
            Register::R14,
            Register::R15,
        ];
        R[n as usize]
    }

    #[test]
    fn every_addressing_form_decodes_to_itself() {
        for base in 0..16 {
            for index in (0..17).map(|i| (i < 16 && i != host::RSP).then_some(i)) {
                for (scale, disp) in [(0, 0), (3, 8), (2, -128), (1, 128), (0, -70000)] {
                    let m = Mem {
                        base: Some(base),
                        index,
                        scale: if index.is_some() { scale } else { 0 },
                        disp,
                    };
                    for reg in [0, 5, 12, 15] {
                        let mut a = Asm::new(0, 0);
                        a.load(reg, m);
                        let i = decode(&a.finish()[0]);
                        assert_eq!(i.op0_register(), register(reg));
                        assert_eq!(i.memory_base(), register(base));
                        assert_eq!(i.memory_index(), index.map_or(Register::None, register));
                        assert_eq!(i.memory_displacement64() as i64, disp as i64);
                        assert_eq!(i.memory_index_scale(), 1 << m.scale);
                        let mut a = Asm::new(0, 0);
                        a.vex(1, false, true, Map::Two, 0x58, reg, 9, Rm::Mem(m));
                        let i = decode(&a.finish()[0]);
                        assert_eq!(i.memory_base(), register(base));
                        assert_eq!(i.memory_index(), index.map_or(Register::None, register));
                        assert_eq!(i.op0_register() as u32, Register::YMM0 as u32 + reg as u32);
                        assert_eq!(i.op1_register(), Register::YMM9);
                    }
                }
            }
        }
    }

    #[test]
    fn labels_bind_in_both_directions() {
        let mut a = Asm::new(0x1000, 0);
        let back = a.bound();
        let ahead = a.label();
        a.jcc(cc::NE, ahead);
        a.jmp_label(back);
        a.bind(ahead);
        let [code, _] = a.finish();
        let mut d = Decoder::with_ip(64, &code, 0x1000, DecoderOptions::NONE);
        assert_eq!(d.decode().near_branch_target(), 0x1000 + code.len() as u64);
        let i = d.decode();
        assert_eq!(i.op0_kind(), OpKind::NearBranch64);
        assert_eq!(i.near_branch_target(), 0x1000);
    }
}
