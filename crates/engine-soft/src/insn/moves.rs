//! Moves between registers and memory, conditional moves, extensions and address arithmetic.

use super::sized;
use crate::cpu::{Cpu, R};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use donjon_x86::Seg;
use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind, Register};

impl Cpu {
    /// Operand `n`: from memory if it is there, else register `register`.
    #[inline(always)]
    pub fn operand<T: Word>(&mut self, op: &Op, n: u8, register: u8) -> R<T> {
        if op.is_mem(n) {
            self.read(op.seg, self.ea(op))
        } else {
            Ok(self.get(register))
        }
    }

    /// Writes operand `n`.
    #[inline(always)]
    pub fn set_operand<T: Word>(&mut self, op: &Op, n: u8, register: u8, v: T) -> R {
        if op.is_mem(n) {
            return self.write(op.seg, self.ea(op), v);
        }
        self.set(register, v);
        Ok(())
    }
}

fn mov_rr<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.get::<T>(op.b);
    cpu.set(op.a, v);
    Ok(())
}
fn mov_ri<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.set(op.a, T::from_u64(op.imm));
    Ok(())
}
fn mov_rm<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.read::<T>(op.seg, cpu.ea(op))?;
    cpu.set(op.a, v);
    Ok(())
}
fn mov_mr<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.get::<T>(op.b);
    cpu.write(op.seg, cpu.ea(op), v)
}
fn mov_mi<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.write(op.seg, cpu.ea(op), T::from_u64(op.imm))
}

/// Zero extension of a `T` to the destination's size.
fn movzx<T: Word, D: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.operand::<T>(op, 1, op.b)?;
    cpu.set(op.a, D::from_u64(v.to_u64()));
    Ok(())
}
fn movsx<T: Word, D: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.operand::<T>(op, 1, op.b)?;
    cpu.set(op.a, D::from_u64(v.to_i64() as u64));
    Ok(())
}

fn lea<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.set(op.a, T::from_u64(cpu.ea(op)));
    Ok(())
}

fn cmov<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    // The source is read, and a 32-bit destination's upper half cleared, whatever the condition.
    let v = cpu.operand::<T>(op, 1, op.b)?;
    let v = if cpu.flags.condition(op.x) {
        v
    } else {
        cpu.get::<T>(op.a)
    };
    cpu.set(op.a, v);
    Ok(())
}

fn setcc(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.flags.condition(op.x) as u8;
    cpu.set_operand(op, 0, op.a, v)
}

fn bswap<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.get::<T>(op.a);
    // Of a 16-bit register the manual leaves the result undefined; processors give zero.
    let v = if T::SIZE == 2 {
        0
    } else {
        v.to_u64().swap_bytes() >> (64 - 8 * T::SIZE)
    };
    cpu.set(op.a, T::from_u64(v));
    Ok(())
}

fn movbe<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let swap = |v: T| T::from_u64(v.to_u64().swap_bytes() >> (64 - 8 * T::SIZE));
    if op.is_mem(1) {
        let v = cpu.read::<T>(op.seg, cpu.ea(op))?;
        cpu.set(op.a, swap(v));
        return Ok(());
    }
    let v = swap(cpu.get::<T>(op.b));
    cpu.write(op.seg, cpu.ea(op), v)
}

fn xlat(cpu: &mut Cpu, op: &Op) -> R {
    // The operand is [(R/E)BX + AL]; the index register is AL, which address generation does not know.
    let mask = address_mask(op.address_size);
    let ea = cpu.regs[3].wrapping_add(cpu.regs[0] & 0xff) & mask;
    let v = cpu.read::<u8>(op.seg, ea)?;
    cpu.set(0, v);
    Ok(())
}

/// MOV from a segment register: 16 bits to memory, zero-extended to a wider register.
fn mov_from_segment<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.seg[op.b as usize].selector;
    if op.is_mem(0) {
        return cpu.write(op.seg, cpu.ea(op), v);
    }
    cpu.set(op.a, T::from_u64(v as u64));
    Ok(())
}

fn mov_to_segment(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.operand::<u16>(op, 1, op.b)?;
    super::segment::load(cpu, op.a, v)
}

/// The number of a segment register, for handlers.
pub(crate) fn segment_number(r: Register) -> u8 {
    match r {
        Register::ES => Seg::Es as u8,
        Register::CS => Seg::Cs as u8,
        Register::SS => Seg::Ss as u8,
        Register::DS => Seg::Ds as u8,
        Register::FS => Seg::Fs as u8,
        _ => Seg::Gs as u8,
    }
}

/// The encoding of a condition.
pub(crate) fn condition_number(c: ConditionCode) -> u8 {
    match c {
        ConditionCode::o => 0,
        ConditionCode::no => 1,
        ConditionCode::b => 2,
        ConditionCode::ae => 3,
        ConditionCode::e => 4,
        ConditionCode::ne => 5,
        ConditionCode::be => 6,
        ConditionCode::a => 7,
        ConditionCode::s => 8,
        ConditionCode::ns => 9,
        ConditionCode::p => 10,
        ConditionCode::np => 11,
        ConditionCode::l => 12,
        ConditionCode::ge => 13,
        ConditionCode::le => 14,
        _ => 15,
    }
}

fn mov(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let is_segment = |n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_segment_register();
    let is_special = |n| {
        let r = i.op_register(n);
        i.op_kind(n) == OpKind::Register && (r.is_cr() || r.is_dr() || r.is_tr())
    };
    if is_special(0) || is_special(1) {
        return None;
    }
    if is_segment(1) {
        op.b = segment_number(i.op_register(1));
        return Some(sized!(op.size, mov_from_segment));
    }
    if is_segment(0) {
        op.a = segment_number(i.op_register(0));
        op.bits |= Op::ENDS_BLOCK;
        return Some(mov_to_segment);
    }
    let s = op.size;
    Some(match (i.op_kind(0), i.op_kind(1)) {
        (OpKind::Register, OpKind::Register) => sized!(s, mov_rr),
        (OpKind::Register, OpKind::Memory) => sized!(s, mov_rm),
        (OpKind::Memory, OpKind::Register) => sized!(s, mov_mr),
        (OpKind::Memory, _) => sized!(s, mov_mi),
        _ => sized!(s, mov_ri),
    })
}

fn source_size(i: &Instruction) -> usize {
    if i.op_kind(1) == OpKind::Memory {
        i.memory_size().size()
    } else {
        i.op_register(1).size()
    }
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    op.x = condition_number(i.condition_code());
    Some(match i.mnemonic() {
        Mnemonic::Mov => return mov(i, op),
        Mnemonic::Movzx => match source_size(i) {
            1 => sized!(op.size, movzx, u8),
            _ => sized!(op.size, movzx, u16),
        },
        Mnemonic::Movsx => match source_size(i) {
            1 => sized!(op.size, movsx, u8),
            _ => sized!(op.size, movsx, u16),
        },
        Mnemonic::Movsxd => match op.size {
            1 => movsx::<u16, u16>,
            2 => movsx::<u32, u32>,
            _ => movsx::<u32, u64>,
        },
        Mnemonic::Lea => sized!(op.size, lea),
        Mnemonic::Bswap => sized!(op.size, bswap),
        Mnemonic::Movbe => sized!(op.size, movbe),
        Mnemonic::Movnti => sized!(op.size, mov_mr),
        Mnemonic::Xlatb => xlat,
        m if is_cmov(m) => sized!(op.size, cmov),
        m if is_setcc(m) => setcc,
        _ => return None,
    })
}

fn is_cmov(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Cmovo
            | Cmovno
            | Cmovb
            | Cmovae
            | Cmove
            | Cmovne
            | Cmovbe
            | Cmova
            | Cmovs
            | Cmovns
            | Cmovp
            | Cmovnp
            | Cmovl
            | Cmovge
            | Cmovle
            | Cmovg
    )
}

fn is_setcc(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Seto | Setno
            | Setb
            | Setae
            | Sete
            | Setne
            | Setbe
            | Seta
            | Sets
            | Setns
            | Setp
            | Setnp
            | Setl
            | Setge
            | Setle
            | Setg
    )
}

/// The bits of an address of that size code.
pub(crate) const fn address_mask(size: u8) -> u64 {
    match size {
        0 => 0xffff,
        1 => 0xffff_ffff,
        _ => u64::MAX,
    }
}
