//! Pushes, pops and stack frames.

use super::moves::segment_number;
use super::sized;
use crate::cpu::{Cpu, R, Stop};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use donjon_x86::Seg;
use donjon_x86::bits::rflags;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

const SS: u8 = Seg::Ss as u8;

fn push_r<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.get::<T>(op.a);
    cpu.push(v)
}
fn push_i<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.push(T::from_u64(op.imm))
}
fn push_m<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.read::<T>(op.seg, cpu.ea(op))?;
    cpu.push(v)
}
/// A pushed selector moves the stack by the operand size, but only its 16 bits are written.
fn push_segment<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.seg[op.a as usize].selector;
    if T::SIZE == 4 {
        let sp = cpu.stack_pointer().wrapping_sub(4) & cpu.stack_mask;
        cpu.check_alignment(SS, sp, 4)?;
        cpu.write(SS, sp, v)?;
        cpu.set_stack_pointer(sp);
        return Ok(());
    }
    cpu.push(T::from_u64(v as u64))
}

fn pop_r<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.pop::<T>()?;
    cpu.set(op.a, v);
    Ok(())
}
/// The address is formed with RSP already moved (Intel SDM vol. 2B, POP).
fn pop_m<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let before = cpu.regs[4];
    let v = cpu.pop::<T>()?;
    let ea = cpu.ea(op);
    cpu.write(op.seg, ea, v).inspect_err(|_| cpu.regs[4] = before)
}
fn pop_segment<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let sp = cpu.stack_pointer();
    let v = cpu.read::<T>(SS, sp)?.to_u64() as u16;
    let mask = cpu.stack_mask;
    let result = super::segment::load(cpu, op.a, v);
    if result == Err(Stop::Fault) {
        return result;
    }
    let after = sp.wrapping_add(T::SIZE as u64);
    // The new SS may have another size; the increment was made with the old one.
    cpu.regs[4] = if mask == 0xffff {
        cpu.regs[4] & !mask | after & mask
    } else {
        after & mask
    };
    result
}

fn pusha<T: Word>(cpu: &mut Cpu, _: &Op) -> R {
    // Eight separate pushes; the stack pointer moves once all have succeeded.
    let mut sp = cpu.stack_pointer();
    for n in 0..8 {
        sp = sp.wrapping_sub(T::SIZE as u64) & cpu.stack_mask;
        let v = cpu.get::<T>(n);
        cpu.write(SS, sp, v)?;
    }
    cpu.set_stack_pointer(sp);
    Ok(())
}
fn popa<T: Word>(cpu: &mut Cpu, _: &Op) -> R {
    let sp = cpu.stack_pointer();
    let mut bytes = [0; 32];
    cpu.check_alignment(SS, sp, T::SIZE)?;
    cpu.read_bytes(SS, sp, &mut bytes[..8 * T::SIZE])?;
    for n in 0..8u8 {
        if n == 3 {
            continue;
        }
        let mut v = [0; 8];
        v[..T::SIZE].copy_from_slice(&bytes[n as usize * T::SIZE..(n as usize + 1) * T::SIZE]);
        cpu.set(7 - n, T::from_u64(u64::from_le_bytes(v)));
    }
    cpu.set_stack_pointer(sp.wrapping_add(8 * T::SIZE as u64));
    Ok(())
}

fn pushf<T: Word>(cpu: &mut Cpu, _: &Op) -> R {
    let v = cpu.rflags() & !(rflags::VM | rflags::RF);
    cpu.push(T::from_u64(v))
}

impl Cpu {
    /// Replaces the flags that POPF or IRET may change at this privilege; the low `size` bytes only.
    pub fn replace_flags(&mut self, v: u64, size: usize, extra: u64) {
        let mut may = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT | rflags::AC | rflags::ID | extra;
        if self.cpl == 0 {
            may |= rflags::IOPL;
        }
        if self.cpl <= self.iopl() {
            may |= rflags::IF;
        }
        if size == 2 {
            may &= 0xffff;
        }
        let old = self.rflags();
        self.set_rflags(old & !may | v & may);
    }
}

fn popf<T: Word>(cpu: &mut Cpu, _: &Op) -> R {
    let v = cpu.pop::<T>()?.to_u64();
    cpu.replace_flags(v, T::SIZE, 0);
    cpu.rflags &= !rflags::RF;
    Err(Stop::EndBlock)
}

fn enter<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let (size, level) = (op.imm, op.x & 31);
    let mask = cpu.stack_mask;
    let step = T::SIZE as u64;
    // Of a 16-bit stack pointer only the low half moves, but the frame pointer takes all of it.
    let moved = |sp: u64, by: u64| sp & !mask | sp.wrapping_sub(by) & mask;
    let frame = moved(cpu.regs[4], step);
    let mut sp = frame;
    let rbp = cpu.get::<T>(5);
    cpu.write(SS, sp & mask, rbp)?;
    for n in 1..level as u64 {
        // One after the other: a frame that overlaps the new one is read as changed so far.
        let at = cpu.regs[5].wrapping_sub(n * step) & mask;
        let v = cpu.read::<T>(SS, at)?;
        sp = moved(sp, step);
        cpu.write(SS, sp & mask, v)?;
    }
    if level > 0 {
        sp = moved(sp, step);
        cpu.write(SS, sp & mask, T::from_u64(frame))?;
    }
    let sp = moved(sp, size) & mask;
    // The new top of stack must be writable, though nothing is stored there.
    let linear = cpu.linear(SS, sp, T::SIZE, crate::cpu::Kind::Write)?;
    for end in [linear, linear.wrapping_add(step - 1)] {
        cpu.place(SS, end, crate::cpu::Kind::Write)?;
    }
    cpu.set_stack_pointer(sp);
    cpu.set(5, T::from_u64(frame));
    Ok(())
}

fn leave<T: Word>(cpu: &mut Cpu, _: &Op) -> R {
    let frame = cpu.regs[5] & cpu.stack_mask;
    let v = cpu.read::<T>(SS, frame)?;
    cpu.set_stack_pointer(frame.wrapping_add(T::SIZE as u64));
    cpu.set(5, v);
    Ok(())
}

/// The operand size of a push or pop without a sized operand.
fn implied_size(i: &Instruction) -> u8 {
    use Code::*;
    match i.code() {
        Pushfw | Popfw | Pushaw | Popaw | Enterw_imm16_imm8 | Leavew | Push_imm16 | Pushw_imm8 | Pushw_ES
        | Pushw_CS | Pushw_SS | Pushw_DS | Pushw_FS | Pushw_GS | Popw_ES | Popw_CS | Popw_SS | Popw_DS
        | Popw_FS | Popw_GS => 1,
        Pushfd | Popfd | Pushad | Popad | Enterd_imm16_imm8 | Leaved | Pushd_imm32 | Pushd_imm8
        | Pushd_ES | Pushd_CS | Pushd_SS | Pushd_DS | Pushd_FS | Pushd_GS | Popd_ES | Popd_SS | Popd_DS
        | Popd_FS | Popd_GS => 2,
        _ => 3,
    }
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let implied = implied_size(i);
    let segment =
        i.op_count() == 1 && i.op_kind(0) == OpKind::Register && i.op_register(0).is_segment_register();
    Some(match i.mnemonic() {
        Mnemonic::Push if segment => {
            op.a = segment_number(i.op_register(0));
            sized!(implied, push_segment)
        }
        Mnemonic::Pop if segment => {
            op.a = segment_number(i.op_register(0));
            op.bits |= Op::ENDS_BLOCK;
            sized!(implied, pop_segment)
        }
        Mnemonic::Push => match i.op_kind(0) {
            OpKind::Register => sized!(op.size, push_r),
            OpKind::Memory => sized!(op.size, push_m),
            _ => sized!(implied, push_i),
        },
        Mnemonic::Pop => match i.op_kind(0) {
            OpKind::Register => sized!(op.size, pop_r),
            _ => sized!(op.size, pop_m),
        },
        Mnemonic::Pusha | Mnemonic::Pushad => sized!(implied, pusha),
        Mnemonic::Popa | Mnemonic::Popad => sized!(implied, popa),
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => sized!(implied, pushf),
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => {
            op.bits |= Op::ENDS_BLOCK;
            sized!(implied, popf)
        }
        Mnemonic::Enter => {
            op.imm = i.immediate16() as u64;
            op.x = i.immediate8_2nd();
            sized!(implied, enter)
        }
        Mnemonic::Leave => sized!(implied, leave),
        _ => return None,
    })
}
