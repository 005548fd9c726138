//! Instructions on general registers.

use super::family::{Role, Shape};
use super::{Emitter, frame};
use crate::translate::asm::{Map, Mem, NARROW, Prefix, Rm, host};
use crate::translate::frame::offset;
use crate::translate::registers::{HOST, T, W, operand, slot};
use crate::translate::unit::{Base, effective_address};

/// The host's register for guest RAX.
pub(super) const ACCUMULATOR: u8 = host::R13;

/// What becomes of a guest register's stand-in after the instruction.
enum After {
    Nothing,
    /// Store it back to the frame.
    Store {
        guest: u8,
        from: u8,
    },
    /// Put its low byte into bits 8-15 of a host register.
    HighByte {
        to: u8,
        from: u8,
    },
}

/// Whether an 8-bit register number means AH, CH, DH or BH.
fn is_high(p: Prefix, byte: bool, n: u8) -> bool {
    byte && !p.rex && (4..8).contains(&n)
}

impl Emitter<'_> {
    /// Stands `with` in for a register operand that has no host register of its own.
    fn stand_in(&mut self, guest: u8, high: bool, role: Role, byte: bool, with: u8) -> (u8, After) {
        let written = matches!(role, Role::Write | Role::Update);
        if high {
            let to = HOST[(guest & 3) as usize].expect("RAX to RBX have host registers");
            self.a.rorx(with, to, 8);
            let after = if written {
                After::HighByte { to, from: with }
            } else {
                After::Nothing
            };
            return (with, after);
        }
        if let Some(h) = HOST[guest as usize] {
            return (h, After::Nothing);
        }
        let prefix = self.current().encoding.prefix;
        let partial = byte || prefix.data16 && !prefix.wide;
        if role != Role::Write || partial {
            self.a.load(with, slot(guest));
        }
        let after = if written {
            After::Store { guest, from: with }
        } else {
            After::Nothing
        };
        (with, after)
    }

    fn settle(&mut self, after: After) {
        match after {
            After::Nothing => {}
            After::Store { guest, from } => self.a.store(slot(guest), from),
            After::HighByte { to, from } => {
                self.a.rorx(to, to, 8);
                let p = Prefix { rex: true, ..NARROW };
                self.a.legacy(p, Map::One, 0x8a, to, Rm::Reg(from));
                self.a.rorx(to, to, 56);
            }
        }
    }

    /// The `rm` operand if it is a register. [`T`] may be in use already.
    fn direct(&mut self, role: Role, byte: bool, t_taken: bool) -> (Rm, After) {
        let e = self.current().encoding;
        let high = is_high(e.prefix, byte, e.rm);
        let written = matches!(role, Role::Write | Role::Update);
        let narrow = !byte && !e.prefix.wide && !e.prefix.data16;
        // A slot can be the operand itself, unless the upper half is to be cleared or the instruction does
        // something else to memory than to registers.
        let exchange = e.is_legacy(1) && matches!(e.opcode, 0x86 | 0x87)
            || e.is_legacy(2) && matches!(e.opcode, 0xc0 | 0xc1 | 0xa3 | 0xab | 0xb3 | 0xbb);
        let copied = high || exchange || written && narrow;
        if HOST[e.rm as usize].is_none() && !copied {
            return (Rm::Mem(slot(e.rm)), After::Nothing);
        }
        let with = if t_taken { W } else { T };
        if (high || HOST[e.rm as usize].is_none()) && t_taken {
            self.drop_window();
        }
        let (r, after) = self.stand_in(e.rm, high, role, byte, with);
        (Rm::Reg(r), after)
    }

    /// An instruction with ModRM on general registers and memory.
    pub(super) fn plain(&mut self, shape: Shape) {
        let unit = self.unit;
        let insn = &unit.insns[self.n];
        let e = insn.encoding;
        let memory = (!e.direct).then(|| self.operand(0));
        self.prepare_flags();
        let (reg, after_reg) = match shape.reg {
            Role::Digit => (e.reg & 7, After::Nothing),
            role => {
                let high = is_high(e.prefix, shape.reg_byte, e.reg);
                self.stand_in(e.reg, high, role, shape.reg_byte, T)
            }
        };
        let t_taken = shape.reg != Role::Digit && reg == T;
        let (rm, after_rm) = match memory {
            Some(m) => (Rm::Mem(m), After::Nothing),
            None => self.direct(shape.rm, shape.rm_byte, t_taken),
        };
        let p = Prefix {
            // Byte registers that stand in, or that were renamed, need a REX prefix to be named.
            rex: e.prefix.rex || shape.reg_byte || shape.rm_byte,
            ..e.prefix
        };
        if !e.direct {
            self.may_fault();
        }
        self.a.legacy(p, e.map, e.opcode, reg, rm);
        self.a.bytes(e.immediate(&insn.bytes));
        // XADD of a register and itself leaves the sum.
        self.settle(after_reg);
        self.settle(after_rm);
        self.flags_done();
    }

    /// ALU operation of the accumulator and an immediate.
    pub(super) fn accumulator(&mut self, op: u8, byte: bool) {
        let unit = self.unit;
        let insn = &unit.insns[self.n];
        let e = insn.encoding;
        self.prepare_flags();
        let (opcode, digit) = match op {
            8 => (0xf6, 0),
            _ => (0x80, op),
        };
        let rm = Rm::Reg(ACCUMULATOR);
        self.a.legacy(e.prefix, Map::One, opcode | !byte as u8, digit, rm);
        self.a.bytes(e.immediate(&insn.bytes));
        self.flags_done();
    }

    /// Moves the result in the host's accumulator to the guest's.
    fn take_accumulator(&mut self, p: Prefix, byte: bool) {
        let p = Prefix {
            data16: byte || p.data16 && !p.wide,
            wide: p.wide || !byte && !p.data16,
            ..NARROW
        };
        self.a.legacy(p, Map::One, 0x8b, ACCUMULATOR, Rm::Reg(T));
    }

    /// MUL, IMUL, DIV, IDIV with the accumulator.
    pub(super) fn multiply(&mut self) {
        let e = self.current().encoding;
        let byte = e.opcode == 0xf6;
        let memory = (!e.direct).then(|| self.operand(0));
        self.prepare_flags();
        let rm = memory.map_or_else(|| operand(e.rm), Rm::Mem);
        self.a.mov(T, ACCUMULATOR);
        let p = Prefix {
            rex: e.prefix.rex || byte,
            ..e.prefix
        };
        if e.reg & 7 >= 6 || !e.direct {
            self.may_fault();
        }
        self.a.legacy(p, Map::One, e.opcode, e.reg & 7, rm);
        self.take_accumulator(e.prefix, byte);
        self.flags_done();
    }

    pub(super) fn compare_exchange(&mut self) {
        let e = self.current().encoding;
        let byte = e.opcode == 0xb0;
        let high = |n| is_high(e.prefix, byte, n);
        let stands_in = high(e.reg) || HOST[e.reg as usize].is_none();
        let rm_stands_in = e.direct && HOST[e.rm as usize].is_none();
        let memory = (!e.direct).then(|| self.operand(0));
        self.prepare_flags();
        let mut after = After::Nothing;
        let reg = if stands_in {
            self.drop_window();
            self.stand_in(e.reg, high(e.reg), Role::Read, byte, W).0
        } else {
            HOST[e.reg as usize].expect("it does not stand in")
        };
        let rm = match memory {
            Some(m) => Rm::Mem(m),
            None if rm_stands_in => {
                self.drop_window();
                let (r, a) = self.stand_in(e.rm, false, Role::Update, byte, W);
                after = a;
                Rm::Reg(r)
            }
            None => operand(e.rm),
        };
        self.a.mov(T, ACCUMULATOR);
        let p = Prefix {
            rex: e.prefix.rex || byte,
            ..e.prefix
        };
        if !e.direct {
            self.may_fault();
        }
        self.a.legacy(p, Map::Two, e.opcode, reg, rm);
        // With a register destination that is the accumulator itself the comparison succeeds or loads it.
        if !(e.direct && e.rm == 0) {
            self.a.mov(ACCUMULATOR, T);
        }
        self.settle(after);
        self.flags_done();
    }

    pub(super) fn compare_exchange_wide(&mut self) {
        let e = self.current().encoding;
        let m = self.operand(0);
        self.prepare_flags();
        self.a.mov(T, ACCUMULATOR);
        self.may_fault();
        self.a.legacy(e.prefix, Map::Two, 0xc7, 1, Rm::Mem(m));
        self.a.mov(ACCUMULATOR, T);
        self.flags_done();
    }

    pub(super) fn immediate(&mut self) {
        let unit = self.unit;
        let insn = &unit.insns[self.n];
        let e = insn.encoding;
        let byte = e.opcode < 0xb8;
        let bytes = e.immediate(&insn.bytes);
        if byte || e.prefix.data16 && !e.prefix.wide {
            // As C6 or C7, which a slot can take as well.
            let p = Prefix {
                rex: e.prefix.rex || byte,
                ..e.prefix
            };
            self.a.legacy(p, Map::One, 0xc6 | !byte as u8, 0, operand(e.rm));
            return self.a.bytes(bytes);
        }
        let to = HOST[e.rm as usize].unwrap_or(T);
        if e.prefix.wide {
            self.a.bytes(&[0x48 | to >> 3, 0xb8 | to & 7]);
            self.a.bytes(bytes);
        } else {
            let v = u32::from_le_bytes(bytes.try_into().expect("a 32-bit immediate"));
            self.a.mov32_imm(to, v);
        }
        if to == T {
            self.a.store(slot(e.rm), T);
        }
    }

    pub(super) fn exchange_accumulator(&mut self) {
        let e = self.current().encoding;
        let other = HOST[e.rm as usize].unwrap_or(T);
        if other == T {
            self.a.load(T, slot(e.rm));
        }
        self.a
            .legacy(e.prefix, Map::One, 0x87, ACCUMULATOR, Rm::Reg(other));
        if other == T {
            self.a.store(slot(e.rm), T);
        }
    }

    pub(super) fn byte_swap(&mut self) {
        let e = self.current().encoding;
        let r = HOST[e.rm as usize].unwrap_or(T);
        if r == T {
            self.a.load(T, slot(e.rm));
        }
        let rex = 0x40 | (e.prefix.wide as u8) << 3 | r >> 3;
        self.a.bytes(&[rex, 0x0f, 0xc8 | r & 7]);
        if r == T {
            self.a.store(slot(e.rm), T);
        }
    }

    pub(super) fn extend_accumulator(&mut self) {
        let p = self.current().encoding.prefix;
        let (map, opcode) = match (p.wide, p.data16) {
            (true, _) => (Map::One, 0x63),
            (_, true) => (Map::Two, 0xbe),
            _ => (Map::Two, 0xbf),
        };
        let p = Prefix { rex: true, ..p };
        self.a.legacy(p, map, opcode, ACCUMULATOR, Rm::Reg(ACCUMULATOR));
    }

    pub(super) fn sign_of_accumulator(&mut self) {
        let unit = self.unit;
        let insn = &unit.insns[self.n];
        self.a.mov(T, ACCUMULATOR);
        self.a.bytes(&insn.bytes[..insn.i.len()]);
    }

    pub(super) fn lahf(&mut self) {
        self.load_flags();
        self.a.bytes(&[0x9f]);
        self.a.legacy(NARROW, Map::Two, 0xb6, T, Rm::Reg(4)); // MOVZX EAX, AH
        self.settle(After::HighByte {
            to: ACCUMULATOR,
            from: T,
        });
    }

    pub(super) fn sahf(&mut self) {
        self.prepare_flags();
        // Bits 8-15 are in the same place in both.
        self.a.mov(T, ACCUMULATOR);
        self.a.bytes(&[0x9e]);
        self.flags_done();
    }

    pub(super) fn lea(&mut self) {
        let unit = self.unit;
        let insn = &unit.insns[self.n];
        let e = insn.encoding;
        let access = effective_address(&insn.i, insn.offset).expect("checked by its family");
        let base = match access.key.base {
            Base::None => None,
            Base::Page => {
                self.a.load(T, frame(offset::PAGE));
                Some(T)
            }
            Base::Register(r, _) => Some(HOST[r as usize].unwrap_or_else(|| {
                self.a.load(T, slot(r));
                T
            })),
        };
        let index = access.key.index.map(|(r, _, _)| match HOST[r as usize] {
            Some(h) => h,
            None => {
                self.drop_window();
                self.a.load(W, slot(r));
                W
            }
        });
        let mem = Mem {
            base,
            index,
            scale: access.key.index.map_or(0, |(_, _, s)| s),
            disp: access.disp as i32,
        };
        let to = HOST[e.reg as usize].unwrap_or(T);
        if e.prefix.data16 && !e.prefix.wide && to == T {
            // The upper part of the register stays.
            self.a.legacy(NARROW, Map::One, 0x8d, T, Rm::Mem(mem));
            let p = Prefix {
                data16: true,
                ..NARROW
            };
            return self.a.legacy(p, Map::One, 0x89, T, Rm::Mem(slot(e.reg)));
        }
        if access.key.narrow && e.prefix.wide {
            // A 32-bit sum, zero-extended.
            self.a.legacy(NARROW, Map::One, 0x8d, to, Rm::Mem(mem));
        } else {
            self.a.legacy(e.prefix, Map::One, 0x8d, to, Rm::Mem(mem));
        }
        if to == T {
            self.a.store(slot(e.reg), T);
        }
    }

    /// VEX-encoded instructions on general registers.
    pub(super) fn bmi(&mut self) {
        let unit = self.unit;
        let insn = &unit.insns[self.n];
        let e = insn.encoding;
        let vex = e.vex.expect("a VEX prefix");
        // BLSR, BLSMSK, BLSI extend the opcode with ModRM.reg and write vvvv; RORX has no vvvv.
        let digit = e.map == Map::T38 && e.opcode == 0xf3;
        let mulx = e.map == Map::T38 && e.opcode == 0xf6;
        let rorx = e.map == Map::T3A;
        let (reg_out, v_out) = (
            !digit && HOST[e.reg as usize].is_none(),
            !rorx && HOST[vex.v as usize].is_none(),
        );
        let memory = (!e.direct).then(|| self.operand(0));
        self.prepare_flags();
        let rm = match memory {
            Some(m) => Rm::Mem(m),
            None => operand(e.rm),
        };
        if v_out && !digit && !mulx {
            self.a.load(T, slot(vex.v));
        }
        let v = if rorx {
            0
        } else {
            HOST[vex.v as usize].unwrap_or(T)
        };
        let reg = if digit {
            e.reg & 7
        } else {
            HOST[e.reg as usize].unwrap_or(T)
        };
        if !e.direct {
            self.may_fault();
        }
        self.a
            .vex(vex.pp, e.prefix.wide, vex.long, e.map, e.opcode, reg, v, rm);
        self.a.bytes(e.immediate(&insn.bytes));
        if reg_out {
            self.a.store(slot(e.reg), T);
        }
        if v_out && (digit || mulx) {
            self.a.store(slot(vex.v), T);
        }
        self.flags_done();
    }

    /// The next host instruction may fault: the interpreter then does this one.
    pub(super) fn may_fault(&mut self) {
        let l = self.leave();
        self.on_fault.push((self.a.here(), l));
    }
}
