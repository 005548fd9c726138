//! Multiplication and division, and the sign extensions that prepare them.

use super::sized;
use crate::cpu::{Cpu, Flags, R};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use donjon_x86::exception;
use iced_x86::{Instruction, Mnemonic};

const RAX: u8 = 0;
const RDX: u8 = 2;
const AH: u8 = Op::HIGH_BYTE;

/// Stores a double-width result in AX, DX:AX, EDX:EAX or RDX:RAX.
fn set_wide<T: Word>(cpu: &mut Cpu, lo: u64, hi: u64) {
    cpu.set(RAX, T::from_u64(lo));
    cpu.set(if T::SIZE == 1 { AH } else { RDX }, T::from_u64(hi));
}

fn wide<T: Word>(cpu: &Cpu) -> (u64, u64) {
    (
        cpu.get::<T>(RAX).to_u64(),
        cpu.get::<T>(if T::SIZE == 1 { AH } else { RDX }).to_u64(),
    )
}

/// CF and OF tell whether the upper half matters; the others are undefined, and on hardware follow the
/// low half or stay.
fn flags<T: Word>(cpu: &mut Cpu, low: T, overflow: bool) {
    cpu.flags = Flags::result(low, overflow, overflow, false);
}

fn mul<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let b = cpu.operand::<T>(op, 0, op.a)?.to_u64() as u128;
    let p = cpu.get::<T>(RAX).to_u64() as u128 * b;
    let (lo, hi) = (p as u64, (p >> (8 * T::SIZE)) as u64);
    set_wide::<T>(cpu, lo, hi);
    flags(cpu, T::from_u64(lo), hi != 0);
    Ok(())
}

fn imul1<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let b = cpu.operand::<T>(op, 0, op.a)?.to_i64() as i128;
    let p = cpu.get::<T>(RAX).to_i64() as i128 * b;
    let low = T::from_u64(p as u64);
    set_wide::<T>(cpu, p as u64, (p >> (8 * T::SIZE)) as u64);
    flags(cpu, low, low.to_i64() as i128 != p);
    Ok(())
}

fn product<T: Word>(cpu: &mut Cpu, op: &Op, a: T, b: T) {
    let p = a.to_i64() as i128 * b.to_i64() as i128;
    let low = T::from_u64(p as u64);
    cpu.set(op.a, low);
    flags(cpu, low, low.to_i64() as i128 != p);
}

fn imul2<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let b = cpu.operand::<T>(op, 1, op.b)?;
    let a = cpu.get::<T>(op.a);
    product(cpu, op, a, b);
    Ok(())
}

fn imul3<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let a = cpu.operand::<T>(op, 1, op.b)?;
    product(cpu, op, a, T::from_u64(op.imm));
    Ok(())
}

fn mulx<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let b = cpu.operand::<T>(op, 2, op.c)?.to_u64() as u128;
    let p = cpu.get::<T>(RDX).to_u64() as u128 * b;
    cpu.set(op.b, T::from_u64(p as u64));
    // If both destinations are one register it holds the upper half.
    cpu.set(op.a, T::from_u64((p >> (8 * T::SIZE)) as u64));
    Ok(())
}

fn div<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let d = cpu.operand::<T>(op, 0, op.a)?.to_u64() as u128;
    let (lo, hi) = wide::<T>(cpu);
    let n = lo as u128 | (hi as u128) << (8 * T::SIZE);
    if d == 0 || n / d > T::from_u64(u64::MAX).to_u64() as u128 {
        return Err(cpu.raise(exception::DE));
    }
    set_wide::<T>(cpu, (n / d) as u64, (n % d) as u64);
    Ok(())
}

fn idiv<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let d = cpu.operand::<T>(op, 0, op.a)?.to_i64() as i128;
    let (lo, hi) = wide::<T>(cpu);
    let n = lo as i128 | (T::from_u64(hi).to_i64() as i128) << (8 * T::SIZE);
    // Only the most negative dividend over -1 overflows 128 bits; it overflows the quotient anyway.
    let Some(q) = n
        .checked_div(d)
        .filter(|q| T::from_u64(*q as u64).to_i64() as i128 == *q)
    else {
        return Err(cpu.raise(exception::DE));
    };
    set_wide::<T>(cpu, q as u64, (n % d) as u64);
    Ok(())
}

/// CBW, CWDE, CDQE: AL to AX and so on.
fn widen<T: Word>(cpu: &mut Cpu, _: &Op) -> R {
    let half = 4 * T::SIZE as u32;
    let v = (cpu.regs[0] << (64 - half)) as i64 >> (64 - half);
    cpu.set(RAX, T::from_u64(v as u64));
    Ok(())
}

/// CWD, CDQ, CQO: the sign of (E/R)AX all over (E/R)DX.
fn sign<T: Word>(cpu: &mut Cpu, _: &Op) -> R {
    let v = cpu.get::<T>(RAX).to_i64() >> 63;
    cpu.set(RDX, T::from_u64(v as u64));
    Ok(())
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    Some(match i.mnemonic() {
        Mnemonic::Mul => sized!(op.size, mul),
        Mnemonic::Imul => match i.op_count() {
            1 => sized!(op.size, imul1),
            2 => sized!(op.size, imul2),
            _ => sized!(op.size, imul3),
        },
        Mnemonic::Mulx => sized!(op.size, mulx),
        Mnemonic::Div => sized!(op.size, div),
        Mnemonic::Idiv => sized!(op.size, idiv),
        Mnemonic::Cbw => widen::<u16>,
        Mnemonic::Cwde => widen::<u32>,
        Mnemonic::Cdqe => widen::<u64>,
        Mnemonic::Cwd => sign::<u16>,
        Mnemonic::Cdq => sign::<u32>,
        Mnemonic::Cqo => sign::<u64>,
        _ => return None,
    })
}
