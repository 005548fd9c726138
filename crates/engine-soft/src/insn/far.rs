//! Far jumps, calls and returns, and IRET (Intel SDM vol. 2, CALL, JMP, RET, IRET; vol. 3A §5.8).

use super::branch::is_far;
use super::sized;
use crate::cpu::{Cpu, Loaded, NewStack, R, Stop, is_null};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use donjon_x86::bits::rflags;
use donjon_x86::descriptor::{Gate, kind};
use donjon_x86::paging::canonical;
use donjon_x86::{Seg, Segment, exception};
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

const CS: usize = Seg::Cs as usize;
const SS: usize = Seg::Ss as usize;

impl Cpu {
    /// Checks the target of a direct far transfer at the same privilege.
    fn check_far_code(&mut self, selector: u16, l: &Loaded) -> R {
        let a = l.descriptor.attributes();
        let rpl = selector as u8 & 3;
        let allowed = if a.conforming() {
            a.dpl() <= self.cpl
        } else {
            rpl <= self.cpl && a.dpl() == self.cpl
        };
        if !allowed || self.is_impossible_code(a) {
            return Err(self.selector_fault(exception::GP, selector));
        }
        if !a.present() {
            return Err(self.selector_fault(exception::NP, selector));
        }
        Ok(())
    }

    /// #GP(0) unless `rip` is inside a code segment about to be loaded.
    fn check_target(&mut self, l: &Loaded, rip: u64) -> R {
        let long = self.long_mode() && l.descriptor.attributes().long();
        let ok = if long {
            canonical(rip)
        } else {
            rip <= l.descriptor.limit() as u64
        };
        if ok { Ok(()) } else { Err(self.gp(0)) }
    }

    /// A direct far JMP, or with `call` a CALL that pushes CS and the return address as `T`.
    fn far_transfer<T: Word>(&mut self, selector: u16, rip: u64, call: bool) -> R {
        let (old, back) = (self.seg[CS].selector as u64, self.next_rip);
        if !self.protected() {
            self.real_target(rip)?;
            if call {
                self.push_pair::<T>(old, back)?;
            }
            self.set_real_cs(selector);
            self.next_rip = rip;
            return Err(Stop::EndBlock);
        }
        if is_null(selector) {
            return Err(self.gp(0));
        }
        let l = self.read_descriptor(selector, exception::GP)?;
        let a = l.descriptor.attributes();
        if !a.is_code_or_data() {
            return self.far_system(selector, &l, call);
        }
        if !a.is_code() {
            return Err(self.selector_fault(exception::GP, selector));
        }
        self.check_far_code(selector, &l)?;
        self.check_target(&l, rip)?;
        if call {
            self.push_pair::<T>(old, back)?;
        }
        let cpl = self.cpl;
        self.set_code_segment(&l, selector, cpl)?;
        self.next_rip = rip;
        Err(Stop::EndBlock)
    }

    fn real_target(&mut self, rip: u64) -> R {
        if rip > self.seg[CS].limit as u64 {
            return Err(self.gp(0));
        }
        Ok(())
    }

    /// Pushes CS and the return address; the stack pointer moves only if both stores succeed.
    fn push_pair<T: Word>(&mut self, selector: u64, rip: u64) -> R {
        let mut sp = self.stack_pointer();
        for v in [selector, rip] {
            sp = sp.wrapping_sub(T::SIZE as u64) & self.stack_mask;
            self.write(Seg::Ss as u8, sp, T::from_u64(v))?;
        }
        self.set_stack_pointer(sp);
        Ok(())
    }

    /// A far transfer through a system descriptor: call gate, task gate or TSS.
    fn far_system(&mut self, selector: u16, l: &Loaded, call: bool) -> R {
        let a = l.descriptor.attributes();
        let rpl = selector as u8 & 3;
        let gate = Gate {
            low: l.descriptor.0,
            high: l.high,
        };
        let long = self.long_mode();
        let known = match a.kind() {
            kind::CALL_GATE => true,
            kind::CALL_GATE16 | kind::TASK_GATE | kind::TSS_AVAILABLE | kind::TSS16_AVAILABLE => !long,
            _ => false,
        };
        if !known || a.dpl() < self.cpl || a.dpl() < rpl {
            return Err(self.selector_fault(exception::GP, selector));
        }
        if !a.present() {
            return Err(self.selector_fault(exception::NP, selector));
        }
        match a.kind() {
            kind::TASK_GATE => {
                self.switch_task_by_jump(gate.selector(), call)?;
                Err(Stop::EndBlock)
            }
            kind::TSS_AVAILABLE | kind::TSS16_AVAILABLE => {
                self.switch_task_by_jump(selector, call)?;
                Err(Stop::EndBlock)
            }
            _ => self.call_gate(gate, call),
        }
    }

    fn call_gate(&mut self, gate: Gate, call: bool) -> R {
        let selector = gate.selector();
        if is_null(selector) {
            return Err(self.gp(0));
        }
        let l = self.read_descriptor(selector, exception::GP)?;
        let a = l.descriptor.attributes();
        let long = self.long_mode();
        let deeper = call && !a.conforming() && a.dpl() < self.cpl;
        let allowed = a.is_code()
            && a.dpl() <= self.cpl
            && (call || a.conforming() || a.dpl() == self.cpl)
            && !(long && (!a.long() || a.big()));
        if !allowed {
            return Err(self.selector_fault(exception::GP, selector));
        }
        if !a.present() {
            return Err(self.selector_fault(exception::NP, selector));
        }
        let wide = gate.attributes().kind() & 8 != 0;
        let rip = match (long, wide) {
            (true, _) => gate.offset(),
            (false, true) => gate.offset() & 0xffff_ffff,
            (false, false) => gate.offset() & 0xffff,
        };
        self.check_target(&l, rip)?;
        let size = if long { 8 } else { 2 + 2 * wide as u64 };
        let (old_cs, back) = (self.seg[CS].selector as u64, self.next_rip);
        let (old_ss, old_sp) = (self.seg[SS], self.regs[4]);
        if !deeper {
            if call {
                let cpl = self.cpl;
                let stack = if long {
                    NewStack::long(old_ss, cpl)
                } else {
                    NewStack::legacy(old_ss, cpl, 0)
                };
                let mut sp = self.stack_pointer();
                self.push_system(&stack, &mut sp, size, old_cs)?;
                self.push_system(&stack, &mut sp, size, back)?;
                self.set_stack_pointer(sp);
            }
            let cpl = self.cpl;
            self.set_code_segment(&l, selector, cpl)?;
            self.next_rip = rip;
            return Err(Stop::EndBlock);
        }
        let cpl = a.dpl();
        let (stack, mut sp) = if long {
            let ss = Segment::null(cpl as u16, (cpl as u32) << 5);
            (NewStack::long(ss, cpl), self.task_stack64(cpl as u32)?)
        } else {
            let (ss, sp) = self.task_stack(cpl)?;
            (
                NewStack::legacy(self.check_stack_segment(ss, cpl, exception::TS)?, cpl, ss),
                sp,
            )
        };
        let whole = sp;
        sp &= stack.mask;
        let mut frame = vec![old_ss.selector as u64, old_sp];
        if !long {
            let mask = self.stack_mask;
            for n in (0..gate.parameters() as u64).rev() {
                let at = old_sp.wrapping_add(n * size) & mask;
                let v = if wide {
                    self.read::<u32>(Seg::Ss as u8, at)? as u64
                } else {
                    self.read::<u16>(Seg::Ss as u8, at)? as u64
                };
                frame.push(v);
            }
        }
        frame.extend([old_cs, back]);
        for v in frame {
            self.push_system(&stack, &mut sp, size, v)?;
        }
        self.set_code_segment(&l, selector, cpl)?;
        self.set_segment(Seg::Ss, stack.segment);
        self.regs[4] = whole;
        self.set_stack_pointer(sp);
        self.next_rip = rip;
        Err(Stop::EndBlock)
    }

    /// Loads CS (and, going outwards, SS:RSP) from a far return or IRET frame already read.
    fn return_far(
        &mut self,
        selector: u16,
        rip: u64,
        stack: impl FnOnce(&mut Self) -> R<(u16, u64)>,
        iret: bool,
    ) -> R<bool> {
        if is_null(selector) {
            return Err(self.gp(0));
        }
        let rpl = selector as u8 & 3;
        let l = self.read_descriptor(selector, exception::GP)?;
        let a = l.descriptor.attributes();
        let privileged = rpl >= self.cpl
            && if a.conforming() {
                a.dpl() <= rpl
            } else {
                a.dpl() == rpl
            };
        if !a.is_code() || !privileged || self.is_impossible_code(a) {
            return Err(self.selector_fault(exception::GP, selector));
        }
        if !a.present() {
            return Err(self.selector_fault(exception::NP, selector));
        }
        self.check_target(&l, rip)?;
        let outwards = rpl > self.cpl;
        // IRET in 64-bit mode always takes SS:RSP from the frame.
        if !(outwards || iret && self.is64()) {
            self.set_code_segment(&l, selector, rpl)?;
            return Ok(false);
        }
        let (ss, sp) = stack(self)?;
        // A null SS is for 64-bit code below CPL 3 only, judged by the code returned to.
        let to64 = self.long_mode() && a.long();
        let segment = if is_null(ss) {
            if !to64 || rpl == 3 || ss as u8 & 3 != rpl {
                return Err(self.gp(0));
            }
            Segment::null(ss, (rpl as u32) << 5)
        } else {
            self.check_stack_segment(ss, rpl, exception::GP)?
        };
        self.set_code_segment(&l, selector, rpl)?;
        self.set_segment(Seg::Ss, segment);
        self.regs[4] = if self.stack_mask == 0xffff {
            self.regs[4] & !0xffff | sp & 0xffff
        } else {
            sp
        };
        if outwards {
            self.drop_privileged_segments();
        }
        Ok(true)
    }

    /// Data segments that the outer level may not use become null.
    fn drop_privileged_segments(&mut self) {
        for n in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let s = self.seg[n as usize];
            let a = s.attributes;
            let inner = !a.unusable() && a.dpl() < self.cpl && !a.conforming();
            if inner {
                self.set_segment(
                    n,
                    Segment {
                        base: s.base,
                        ..Segment::null(0, 0)
                    },
                );
            }
        }
    }
}

fn far_pointer<T: Word>(cpu: &mut Cpu, op: &Op) -> R<(u16, u64)> {
    let ea = cpu.ea(op);
    let rip = cpu.read::<T>(op.seg, ea)?.to_u64();
    Ok((cpu.read::<u16>(op.seg, cpu.ea_plus(op, T::SIZE as u64))?, rip))
}

fn jmp_direct(cpu: &mut Cpu, op: &Op) -> R {
    cpu.far_transfer::<u32>(op.disp as u16, op.imm, false)
}
fn jmp_memory<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let (selector, rip) = far_pointer::<T>(cpu, op)?;
    cpu.far_transfer::<T>(selector, rip, false)
}
fn call_direct<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.far_transfer::<T>(op.disp as u16, op.imm, true)
}
fn call_memory<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let (selector, rip) = far_pointer::<T>(cpu, op)?;
    cpu.far_transfer::<T>(selector, rip, true)
}

fn ret<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let step = T::SIZE as u64;
    let ss = Seg::Ss as u8;
    let sp = cpu.stack_pointer();
    let mask = cpu.stack_mask;
    let at = |n: u64| sp.wrapping_add(n) & mask;
    let rip = cpu.read::<T>(ss, sp)?.to_u64();
    let selector = cpu.read::<T>(ss, at(step))?.to_u64() as u16;
    if !cpu.protected() {
        cpu.real_target(rip)?;
        cpu.set_real_cs(selector);
        cpu.set_stack_pointer(sp.wrapping_add(2 * step).wrapping_add(op.imm));
        cpu.next_rip = rip;
        return Err(Stop::EndBlock);
    }
    let outer = |cpu: &mut Cpu| {
        let new_sp = cpu.read::<T>(ss, at(2 * step + op.imm))?.to_u64();
        let new_ss = cpu.read::<T>(ss, at(3 * step + op.imm))?.to_u64() as u16;
        Ok((new_ss, new_sp.wrapping_add(op.imm)))
    };
    if !cpu.return_far(selector, rip, outer, false)? {
        cpu.set_stack_pointer(sp.wrapping_add(2 * step).wrapping_add(op.imm));
    }
    cpu.next_rip = rip;
    Err(Stop::EndBlock)
}

fn iret<T: Word>(cpu: &mut Cpu, _: &Op) -> R {
    let step = T::SIZE as u64;
    let ss = Seg::Ss as u8;
    let sp = cpu.stack_pointer();
    let mask = cpu.stack_mask;
    let at = |n: u64| sp.wrapping_add(n * step) & mask;
    if cpu.protected() && cpu.rflags & rflags::NT != 0 {
        if cpu.long_mode() {
            return Err(cpu.gp(0));
        }
        cpu.switch_task_by_iret()?;
        return Err(Stop::EndBlock);
    }
    let rip = cpu.read::<T>(ss, sp)?.to_u64();
    let selector = cpu.read::<T>(ss, at(1))?.to_u64() as u16;
    let flags = cpu.read::<T>(ss, at(2))?.to_u64();
    if !cpu.protected() {
        cpu.real_target(rip)?;
        cpu.set_real_cs(selector);
        cpu.set_stack_pointer(sp.wrapping_add(3 * step));
    } else {
        let outer = |cpu: &mut Cpu| {
            let new_sp = cpu.read::<T>(ss, at(3))?.to_u64();
            Ok((cpu.read::<T>(ss, at(4))?.to_u64() as u16, new_sp))
        };
        // The flags change by the privilege of the code that returns, not of the code returned to.
        let (cpl, iopl) = (cpu.cpl, cpu.iopl());
        if !cpu.return_far(selector, rip, outer, true)? {
            cpu.set_stack_pointer(sp.wrapping_add(3 * step));
        }
        let now = std::mem::replace(&mut cpu.cpl, cpl);
        debug_assert_eq!(iopl, cpu.iopl());
        cpu.replace_flags(flags, T::SIZE, if T::SIZE > 2 { rflags::RF } else { 0 });
        cpu.set_cpl(now);
        cpu.nmi_blocked = false;
        cpu.next_rip = rip;
        return Err(Stop::EndBlock);
    }
    cpu.replace_flags(flags, T::SIZE, if T::SIZE > 2 { rflags::RF } else { 0 });
    cpu.nmi_blocked = false;
    cpu.next_rip = rip;
    Err(Stop::EndBlock)
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    use Mnemonic::*;
    let memory_size = match i.code() {
        Code::Jmp_m1616 | Code::Call_m1616 => 1,
        Code::Jmp_m1632 | Code::Call_m1632 => 2,
        _ => 3,
    };
    let handler: Handler = match i.mnemonic() {
        Jmp if is_far(i) => match i.op_kind(0) {
            OpKind::Memory => sized!(memory_size, jmp_memory),
            _ => jmp_direct,
        },
        Call if is_far(i) => match i.op_kind(0) {
            OpKind::Memory => sized!(memory_size, call_memory),
            OpKind::FarBranch16 => call_direct::<u16>,
            _ => call_direct::<u32>,
        },
        Retf => match i.code() {
            Code::Retfw | Code::Retfw_imm16 => ret::<u16>,
            Code::Retfd | Code::Retfd_imm16 => ret::<u32>,
            _ => ret::<u64>,
        },
        Iret | Iretd | Iretq => match i.code() {
            Code::Iretw => iret::<u16>,
            Code::Iretd => iret::<u32>,
            _ => iret::<u64>,
        },
        _ => return None,
    };
    op.bits |= Op::ENDS_BLOCK;
    Some(handler)
}
