//! Branches, the stack, and what changes RFLAGS or GS.

use super::{Emitter, Exit, Flags, Stub, frame};
use crate::translate::asm::{Label, Map, Mem, NARROW, Rm, WIDE, alu, cc, host};
use crate::translate::frame::{Mode, TARGETS, offset};
use crate::translate::registers::{HOST, T, W, slot};
use crate::translate::step::Step;
use crate::translate::unit::End;
use donjon_engine::Attention;
use donjon_x86::bits::rflags;

/// The host's register for guest RSP.
const STACK: u8 = host::R14;

impl Emitter<'_> {
    fn move_stack(&mut self, by: i32) {
        self.a.lea(STACK, Mem::at(STACK, by));
    }

    pub(super) fn push_register(&mut self) {
        let e = self.current().encoding;
        let m = self.operand(0);
        let from = HOST[e.rm as usize].unwrap_or_else(|| {
            self.a.load(T, slot(e.rm));
            T
        });
        self.may_fault();
        self.a.store(m, from);
        self.move_stack(-8);
    }

    pub(super) fn push_immediate(&mut self) {
        let v = self.current().i.immediate(0) as i32;
        let m = self.operand(0);
        self.may_fault();
        self.a.legacy(WIDE, Map::One, 0xc7, 0, Rm::Mem(m));
        self.a.bytes(&v.to_le_bytes());
        self.move_stack(-8);
    }

    pub(super) fn push_memory(&mut self) {
        let m = self.operand(0);
        self.a.load(T, m);
        self.a.store(frame(offset::SCRATCH), T);
        let m = self.operand(1);
        self.a.load(T, frame(offset::SCRATCH));
        self.may_fault();
        self.a.store(m, T);
        self.move_stack(-8);
    }

    pub(super) fn pop_register(&mut self) {
        let e = self.current().encoding;
        let m = self.operand(0);
        let to = HOST[e.rm as usize].unwrap_or(T);
        self.a.load(to, m);
        if to == T {
            self.a.store(slot(e.rm), T);
        }
        self.move_stack(8);
    }

    pub(super) fn push_flags(&mut self) {
        let m = self.operand(0);
        self.clobber();
        // LAHF's byte is the low byte of RFLAGS; OF goes to bit 11.
        self.a.load32(T, frame(offset::FLAGS));
        self.a.legacy(NARROW, Map::Two, 0xb6, T, Rm::Reg(4)); // MOVZX EAX, AH
        self.a.alu(WIDE, alu::OR, T, Rm::Mem(frame(offset::RFLAGS)));
        self.a.store(frame(offset::SCRATCH), T);
        self.a
            .legacy(NARROW, Map::Two, 0xb6, T, Rm::Mem(frame(offset::FLAGS)));
        self.a.legacy(NARROW, Map::One, 0xc1, 4, Rm::Reg(T));
        self.a.bytes(&[11]);
        self.a.alu(WIDE, alu::OR, T, Rm::Mem(frame(offset::SCRATCH)));
        self.may_fault();
        self.a.store(m, T);
        self.move_stack(-8);
    }

    pub(super) fn leave_frame(&mut self) {
        let m = self.operand(0);
        self.a.lea(STACK, Mem::at(host::RBP, 8));
        self.a.load(host::RBP, m);
    }

    /// Stores the address behind the current instruction to the stack.
    fn push_return(&mut self, access: usize) {
        let next = self.current().next();
        let m = self.operand(access);
        self.a.load(T, frame(offset::PAGE));
        self.a.lea(T, Mem::at(T, next));
        self.may_fault();
        self.a.store(m, T);
        self.move_stack(-8);
    }

    pub(super) fn jcc(&mut self) {
        let insn = self.current();
        let (code, to, backward) = (
            insn.encoding.opcode & 15,
            insn.target(),
            insn.target() <= insn.offset as i64,
        );
        self.prepare_flags();
        if let Some(head) = self.loop_head(to) {
            // This changes no flags.
            self.save_flags();
            if self.counts {
                let on = self.a.label();
                self.a.jcc(code ^ 1, on);
                self.count(T, self.done());
                self.a.jmp_label(head);
                self.a.bind(on);
            } else {
                self.a.jcc(code, head);
            }
            return;
        }
        let save = self.flags == Flags::Host;
        if (0..0x1000).contains(&to) {
            let (exit, at) = self.jump_exit(to as i32, self.mode, save);
            self.a.jcc(code, at);
            self.set_jump_site(exit);
        } else {
            let at = self.a.label();
            self.a.jcc(code, at);
            self.stubs.push(Stub::Cross {
                at,
                to,
                backward,
                save,
                insn: self.n,
            });
        }
    }

    /// An exit to a place in this page, and the label of its stub. The jump's displacement, which must be
    /// the last thing emitted before [`Emitter::set_site`], is what gets linked.
    fn jump_exit(&mut self, to: i32, mode: Mode, host_flags: bool) -> (usize, Label) {
        let page = self.unit.page;
        let at = self.exit_stub(
            Exit::Jump {
                site: 0,
                to,
                mode,
                host_flags,
                page,
            },
            host_flags,
        );
        (self.exits.len() - 1, at)
    }

    /// As [`Emitter::set_site`] for a jump that leads past its stub, which it does not if that counts.
    fn set_jump_site(&mut self, exit: usize) {
        if !self.counts {
            self.set_site(exit);
        }
    }

    pub(super) fn set_site(&mut self, exit: usize) {
        let here = self.a.here() - 4;
        match &mut self.exits[exit] {
            Exit::Jump { site, .. } | Exit::Cross { site, .. } => *site = here,
            _ => unreachable!("only jumps have a site"),
        }
    }

    /// Where a jump back to the unit's start may go, what the start prepares being prepared.
    fn loop_head(&self, to: i64) -> Option<Label> {
        let head = self.head?;
        let ready = head.mode == self.mode && head.vectors <= self.vectors_live && head.x87 <= self.x87_live;
        let start = self.unit.insns[0].offset as i64;
        (ready && to == start).then_some(head.label)
    }

    /// Goes on at a distance from the page's start.
    fn go(&mut self, to: i64, mode: Mode, backward: bool) {
        if let Some(head) = self.loop_head(to).filter(|_| mode == self.mode) {
            self.save_flags();
            self.count(T, self.done());
            self.a.jmp_label(head);
            return;
        }
        if (0..0x1000).contains(&to) {
            let host_flags = self.flags == Flags::Host;
            let (exit, at) = self.jump_exit(to as i32, mode, host_flags);
            self.a.jmp_label(at);
            self.set_jump_site(exit);
        } else {
            self.cross(to, backward);
        }
    }

    /// Goes on in another page.
    pub(super) fn cross(&mut self, to: i64, backward: bool) {
        self.save_flags();
        self.flags = Flags::Saved;
        self.count(T, self.done());
        let slot = *self.links;
        *self.links += 1;
        let miss = self.exit_stub(
            Exit::Cross {
                site: 0,
                slot,
                to,
                mode: self.mode,
            },
            false,
        );
        let exit = self.exits.len() - 1;
        if backward {
            self.attention(T, miss);
        }
        self.a.load(T, frame(offset::PAGE));
        self.a.alu(WIDE, alu::CMP, T, Rm::Mem(frame(offset::link(slot))));
        self.a.jcc(cc::NE, miss);
        self.a.lea(T, Mem::at(T, (to & !0xfff) as i32));
        self.a.store(frame(offset::PAGE), T);
        self.a.jmp_label(miss);
        self.set_site(exit);
    }

    pub(super) fn jmp(&mut self) {
        let insn = self.current();
        let (to, backward) = (insn.target(), insn.target() <= insn.offset as i64);
        if self
            .unit
            .insns
            .get(self.n + 1)
            .is_some_and(|i| i.offset as i64 == to)
        {
            // The unit follows it.
            return;
        }
        self.go(to, self.mode, backward);
    }

    pub(super) fn call(&mut self) {
        let insn = self.current();
        let (to, backward) = (insn.target(), insn.target() <= insn.offset as i64);
        self.push_return(0);
        self.go(to, self.mode, backward);
    }

    /// Puts the operand of an indirect branch into [`T`].
    fn branch_target(&mut self) {
        let e = self.current().encoding;
        if e.direct {
            match HOST[e.rm as usize] {
                Some(h) => self.a.mov(T, h),
                None => self.a.load(T, slot(e.rm)),
            }
        } else {
            let m = self.operand(0);
            self.a.load(T, m);
        }
    }

    pub(super) fn jmp_indirect(&mut self) {
        self.save_flags();
        self.branch_target();
        self.indirect(0);
    }

    pub(super) fn call_indirect(&mut self) {
        let access = !self.current().encoding.direct as usize;
        self.save_flags();
        self.branch_target();
        self.a.store(frame(offset::TARGET), T);
        // An address that is not canonical faults before anything is pushed.
        let fault = self.leave();
        self.drop_window();
        self.flags = Flags::Saved;
        self.a.mov(W, T);
        self.a.legacy(WIDE, Map::One, 0xc1, 7, Rm::Reg(W)); // SAR
        self.a.bytes(&[47]);
        self.a.alu_imm(WIDE, alu::ADD, Rm::Reg(W), 1);
        self.a.alu_imm(WIDE, alu::CMP, Rm::Reg(W), 1);
        self.a.jcc(cc::A, fault);
        self.push_return(access);
        self.a.load(T, frame(offset::TARGET));
        self.indirect(-8);
    }

    pub(super) fn ret(&mut self) {
        let insn = self.current();
        let more = if insn.encoding.opcode == 0xc2 {
            insn.i.immediate16() as i32
        } else {
            0
        };
        let m = self.operand(0);
        self.save_flags();
        self.a.load(T, m);
        self.move_stack(8 + more);
        self.indirect(8 + more);
    }

    /// Goes on at the linear address in [`T`]; the flags are saved and RSP has `moved` already.
    fn indirect(&mut self, moved: i32) {
        debug_assert!(self.flags != Flags::Host);
        self.drop_window();
        let at = self.a.label();
        self.count(W, self.done());
        self.attention(W, at);
        // See `target_slot`.
        self.a.mov(W, T);
        self.a.legacy(WIDE, Map::One, 0xc1, 5, Rm::Reg(W));
        self.a.bytes(&[12]);
        self.a.alu(NARROW, alu::XOR, W, Rm::Reg(T));
        self.a.alu_imm(NARROW, alu::AND, Rm::Reg(W), TARGETS as i32 - 1);
        self.a.legacy(NARROW, Map::One, 0xc1, 4, Rm::Reg(W));
        self.a.bytes(&[4]);
        let table = offset::targets(self.mode);
        let entry = |disp| Rm::Mem(Mem::indexed(host::RSP, W, disp));
        self.a.alu(WIDE, alu::CMP, T, entry(table));
        self.a.jcc(cc::NE, at);
        self.a.alu_imm(WIDE, alu::AND, Rm::Reg(T), -0x1000);
        self.a.store(frame(offset::PAGE), T);
        self.a.jmp_rm(entry(table + 8));
        let insn = self.n;
        self.stubs.push(Stub::Indirect { at, moved, insn });
    }

    /// Sets or clears one bit of RFLAGS that is not a status flag.
    pub(super) fn change_rflags(&mut self, op: u8, bits: i32) {
        self.clobber();
        self.a.alu_imm(NARROW, op, Rm::Mem(frame(offset::RFLAGS)), bits);
        let interrupts = if op == alu::OR { bits } else { !bits } as u64 & rflags::IF != 0;
        if interrupts {
            let attention = Attention::INTERRUPT as i32;
            let mask = if op == alu::OR { attention } else { !attention };
            self.a.alu_imm(NARROW, op, Rm::Mem(frame(offset::INTEREST)), mask);
            if op == alu::OR {
                // Interrupts wait for one more instruction (Intel SDM vol. 2B, STI).
                self.poll_at = Some(self.n + 2);
            }
        }
    }

    /// Calls the interpreter for the current instruction.
    pub(super) fn step(&mut self) {
        self.save_flags();
        self.drop_window();
        let insn = self.current();
        let step = Step {
            op: insn.op.expect("read with its operation"),
            offset: insn.offset,
            mode: self.mode,
            before: self.n as u8,
        };
        self.steps.push(step);
        self.a.mov32_imm(T, self.steps.len() as u32 - 1);
        self.a.call(self.trampolines.step);
        self.vectors_live = false;
        self.x87_live = false;
        self.flags = Flags::Saved;
    }

    pub(super) fn swapgs(&mut self) {
        self.drop_window();
        self.a.load(T, frame(offset::GS_BASE));
        self.a.load(W, frame(offset::KERNEL_GS_BASE));
        self.a.store(frame(offset::GS_BASE), W);
        self.a.store(frame(offset::KERNEL_GS_BASE), T);
    }

    /// What follows the last instruction.
    pub(super) fn end(&mut self) {
        match self.unit.end {
            End::Branch => {}
            End::Interpret(_) => {
                let l = self.leave();
                self.a.jmp_label(l);
            }
            End::Next(to) => {
                let last = self.unit.insns.last();
                let mode = match last.map(|i| i.i.mnemonic()) {
                    Some(iced_x86::Mnemonic::Stac) if self.mode != Mode::User => Mode::SupervisorAc,
                    Some(iced_x86::Mnemonic::Clac) if self.mode != Mode::User => Mode::Supervisor,
                    _ => self.mode,
                };
                if mode != self.mode && to == 0x1000 {
                    // A link to another page stays in its mode.
                    self.leave_for(to);
                } else {
                    self.go(to as i64, mode, false);
                }
            }
        }
    }

    /// Hands over with the instruction pointer at an offset of the page, which may be the next one's start.
    fn leave_for(&mut self, offset: i32) {
        let save = self.flags == Flags::Host;
        let at = self.exit_stub(Exit::Poll { offset }, save);
        self.a.jmp_label(at);
    }
}
