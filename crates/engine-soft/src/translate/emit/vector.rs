//! SSE and AVX instructions: as they are, on the guest's own registers.

use super::Emitter;
use super::family::{General, reads_accumulator};
use super::integer::ACCUMULATOR;
use crate::translate::asm::Rm;
use crate::translate::registers::{HOST, T, operand, slot};

impl Emitter<'_> {
    pub(super) fn vector(&mut self, general: General) {
        let unit = self.unit;
        let insn = &unit.insns[self.n];
        let e = insn.encoding;
        if !self.vectors_live {
            self.clobber();
            self.vectors();
        }
        if !e.has_modrm {
            // VZEROUPPER, VZEROALL
            return self.a.bytes(&insn.bytes[..insn.i.len()]);
        }
        let memory = (!e.direct).then(|| self.operand(0));
        self.prepare_flags();
        let mut reg = e.reg;
        let mut rm = Rm::Reg(e.rm);
        let mut after = None;
        match general {
            General::None => {}
            General::RegWrite => {
                reg = HOST[e.reg as usize].unwrap_or_else(|| {
                    after = Some(e.reg);
                    T
                });
            }
            General::RmRead => rm = operand(e.rm),
            General::RmWrite if e.direct => {
                // A slot would not have its upper part cleared.
                rm = Rm::Reg(HOST[e.rm as usize].unwrap_or_else(|| {
                    after = Some(e.rm);
                    T
                }));
            }
            General::RmWrite => {}
        }
        if let Some(m) = memory {
            rm = Rm::Mem(m);
            self.may_fault();
        }
        if reads_accumulator(&insn.i) {
            self.a.mov(T, ACCUMULATOR);
        }
        match e.vex {
            Some(v) => self
                .a
                .vex(v.pp, e.prefix.wide, v.long, e.map, e.opcode, reg, v.v, rm),
            None => self.a.legacy(e.prefix, e.map, e.opcode, reg, rm),
        }
        self.a.bytes(e.immediate(&insn.bytes));
        if let Some(guest) = after {
            self.a.store(slot(guest), T);
        }
        self.flags_done();
    }
}
