//! Near jumps, calls, returns and loops.

use crate::cpu::{Cpu, R};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use donjon_x86::Seg;
use donjon_x86::paging::canonical;
use iced_x86::{Instruction, Mnemonic, OpKind};

impl Cpu {
    /// Goes on at `target`, already cut to the operand size: #GP(0) if it is outside the code segment or
    /// not canonical.
    #[inline(always)]
    pub fn jump(&mut self, target: u64) -> R {
        let ok = if self.is64() {
            canonical(target)
        } else {
            target <= self.seg[Seg::Cs as usize].limit as u64
        };
        if !ok {
            return Err(self.gp(0));
        }
        self.next_rip = target;
        Ok(())
    }
}

/// A relative target, cut to the operand size.
#[inline(always)]
fn relative<T: Word>(cpu: &Cpu, op: &Op) -> u64 {
    T::from_u64(cpu.rip().wrapping_add(op.imm)).to_u64()
}

fn jcc<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    if cpu.flags.condition(op.x) {
        let target = relative::<T>(cpu, op);
        return cpu.jump(target);
    }
    Ok(())
}

fn jmp<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let target = relative::<T>(cpu, op);
    cpu.jump(target)
}

fn jmp_indirect<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let target = cpu.operand::<T>(op, 0, op.a)?.to_u64();
    cpu.jump(target)
}

/// Checks the target before anything is pushed: a fault leaves the stack as it was.
fn call_to<T: Word>(cpu: &mut Cpu, target: u64) -> R {
    let back = cpu.next_rip;
    cpu.jump(target)?;
    cpu.push(T::from_u64(back))
}

fn call<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let target = relative::<T>(cpu, op);
    call_to::<T>(cpu, target)
}

fn call_indirect<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let target = cpu.operand::<T>(op, 0, op.a)?.to_u64();
    call_to::<T>(cpu, target)
}

fn ret<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let sp = cpu.stack_pointer();
    let target = cpu.read::<T>(Seg::Ss as u8, sp)?.to_u64();
    cpu.jump(target)?;
    cpu.set_stack_pointer(sp.wrapping_add(T::SIZE as u64).wrapping_add(op.imm));
    Ok(())
}

/// LOOP, LOOPE, LOOPNE, JCXZ, JECXZ, JRCXZ; the address size picks the counter.
fn looping<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let mask = super::moves::address_mask(op.address_size);
    let count = cpu.regs[1] & mask;
    let (left, taken) = match op.x {
        3 => (count, count == 0),
        how => {
            let left = count.wrapping_sub(1) & mask;
            (left, left != 0 && (how == 0 || cpu.flags.zf() == (how == 1)))
        }
    };
    if taken {
        let target = relative::<T>(cpu, op);
        cpu.jump(target)?;
    }
    if op.x != 3 {
        match op.address_size {
            0 => cpu.set(1, left as u16),
            1 => cpu.set(1, left as u32),
            _ => cpu.regs[1] = left,
        }
    }
    Ok(())
}

/// Size code of a branch's operand: 64-bit code always uses 64, since Intel processors ignore the
/// operand-size prefix there and iced decodes accordingly.
macro_rules! by_target {
    ($size:expr, $f:ident) => {
        match $size {
            1 => $f::<u16> as Handler,
            2 => $f::<u32>,
            _ => $f::<u64>,
        }
    };
}

fn target_size(i: &Instruction) -> u8 {
    match i.op_kind(0) {
        OpKind::NearBranch16 => 1,
        OpKind::NearBranch32 => 2,
        OpKind::NearBranch64 => 3,
        OpKind::Memory => crate::decode::size_code(i.memory_size().size()),
        _ => crate::decode::size_code(i.op_register(0).size()),
    }
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    use Mnemonic::*;
    let indirect = i.op_count() == 1 && matches!(i.op_kind(0), OpKind::Register | OpKind::Memory);
    let handler = match i.mnemonic() {
        Jmp if !is_far(i) => match indirect {
            false => by_target!(target_size(i), jmp),
            true => by_target!(target_size(i), jmp_indirect),
        },
        Call if !is_far(i) => match indirect {
            false => by_target!(target_size(i), call),
            true => by_target!(target_size(i), call_indirect),
        },
        Ret => by_target!(return_size(i), ret),
        Loop | Loope | Loopne | Jcxz | Jecxz | Jrcxz => {
            op.x = match i.mnemonic() {
                Loop => 0,
                Loope => 1,
                Loopne => 2,
                _ => 3,
            };
            op.address_size = counter_size(i);
            by_target!(target_size(i), looping)
        }
        Jo | Jno | Jb | Jae | Je | Jne | Jbe | Ja | Js | Jns | Jp | Jnp | Jl | Jge | Jle | Jg => {
            op.x = super::moves::condition_number(i.condition_code());
            by_target!(target_size(i), jcc)
        }
        _ => return None,
    };
    op.bits |= Op::ENDS_BLOCK;
    Some(handler)
}

/// Whether a JMP or CALL is far.
pub(crate) fn is_far(i: &Instruction) -> bool {
    i.is_call_far() || i.is_call_far_indirect() || i.is_jmp_far() || i.is_jmp_far_indirect()
}

fn return_size(i: &Instruction) -> u8 {
    use iced_x86::Code::*;
    match i.code() {
        Retnw | Retnw_imm16 => 1,
        Retnd | Retnd_imm16 => 2,
        _ => 3,
    }
}

fn counter_size(i: &Instruction) -> u8 {
    use iced_x86::Code::*;
    match i.code() {
        Loop_rel8_16_CX | Loop_rel8_32_CX | Loope_rel8_16_CX | Loope_rel8_32_CX | Loopne_rel8_16_CX
        | Loopne_rel8_32_CX | Jcxz_rel8_16 | Jcxz_rel8_32 => 0,
        Loop_rel8_16_ECX | Loop_rel8_32_ECX | Loop_rel8_64_ECX | Loope_rel8_16_ECX | Loope_rel8_32_ECX
        | Loope_rel8_64_ECX | Loopne_rel8_16_ECX | Loopne_rel8_32_ECX | Loopne_rel8_64_ECX
        | Jecxz_rel8_16 | Jecxz_rel8_32 | Jecxz_rel8_64 => 1,
        _ => 2,
    }
}
