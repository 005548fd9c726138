//! x87 instructions: as they are, on the guest's own registers.

use super::integer::ACCUMULATOR;
use super::{Emitter, Stub, frame};
use crate::translate::asm::{Label, Map, NARROW, Prefix, Rm, alu, cc, host};
use crate::translate::frame::{live, offset};
use crate::translate::memory::WANTS_X87;
use crate::translate::registers::T;

impl Emitter<'_> {
    /// Makes sure that the x87 state is in the host's registers. Destroys [`T`], the window and flags.
    pub(super) fn want_x87(&mut self) {
        let (at, back) = (self.a.label(), self.a.label());
        let live = Rm::Mem(frame(offset::LIVE));
        self.a.legacy(NARROW, Map::One, 0xf6, 0, live);
        self.a.bytes(&[live::X87]);
        self.a.jcc(cc::E, at);
        self.a.bind(back);
        self.drop_window();
        let insn = self.n;
        self.stubs.push(Stub::X87 { at, back, insn });
        self.x87_live = true;
    }

    /// Loads the x87 state and goes to `back`; goes on if that is not possible.
    pub(super) fn load_x87(&mut self, back: Label) {
        let refused = self.a.label();
        self.a.mov32_imm(T, WANTS_X87);
        self.a.call(self.trampolines.fill);
        self.a.jcc(cc::E, refused);
        let image = Rm::Mem(frame(offset::X87));
        self.a.legacy(NARROW, Map::One, 0xdd, 4, image); // FRSTOR
        let live = Rm::Mem(frame(offset::LIVE));
        self.a.alu_imm(NARROW, alu::OR, live, live::X87 as i32);
        self.a.jmp_label(back);
        self.a.bind(refused);
    }

    pub(super) fn x87(&mut self) {
        let unit = self.unit;
        let insn = &unit.insns[self.n];
        let e = insn.encoding;
        if !self.x87_live {
            self.clobber();
            self.want_x87();
        }
        let memory = (!e.direct && e.has_modrm).then(|| self.operand(0));
        self.prepare_flags();
        if let Some(m) = memory {
            self.may_fault();
            self.a.legacy(NARROW, Map::One, e.opcode, e.reg & 7, Rm::Mem(m));
        } else if e.has_modrm {
            self.a
                .legacy(NARROW, Map::One, e.opcode, e.reg & 7, Rm::Reg(e.rm & 7));
            if e.opcode == 0xdf && e.reg & 7 == 4 && e.rm & 7 == host::RAX {
                // FNSTSW AX
                let p = Prefix {
                    data16: true,
                    ..NARROW
                };
                self.a.legacy(p, Map::One, 0x8b, ACCUMULATOR, Rm::Reg(T));
            }
        }
        self.flags_done();
    }
}
