//! Bit tests and scans, and the BMI instructions.

use super::sized;
use crate::cpu::{Cpu, Flags, R};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use iced_x86::{Instruction, Mnemonic, OpKind};

const fn bits<T: Word>() -> u32 {
    T::SIZE as u32 * 8
}

/// What BT, BTS, BTR, BTC do to the bit.
fn changed<T: Word>(how: u8, v: T, bit: u32) -> T {
    let m = 1u64 << bit;
    T::from_u64(match how {
        0 => v.to_u64(),
        1 => v.to_u64() | m,
        2 => v.to_u64() & !m,
        _ => v.to_u64() ^ m,
    })
}

fn bit_test<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let by_register = op.x & 4 != 0;
    let how = op.x & 3;
    let index = if by_register {
        cpu.get::<T>(op.b).to_i64()
    } else {
        op.imm as i64
    };
    let bit = index as u32 & (bits::<T>() - 1);
    let old = if op.is_mem(0) {
        // A register index reaches beyond the operand, in units of the operand size.
        let away = if by_register {
            (index >> bits::<T>().trailing_zeros()) * T::SIZE as i64
        } else {
            0
        };
        let ea = cpu.ea(op).wrapping_add(away as u64) & super::moves::address_mask(op.address_size);
        if how == 0 {
            cpu.read::<T>(op.seg, ea)?
        } else {
            cpu.update::<T>(op.seg, ea, op.locked(), |v| changed(how, v, bit))?
        }
    } else {
        let v = cpu.get::<T>(op.a);
        if how != 0 {
            cpu.set(op.a, changed(how, v, bit));
        }
        v
    };
    cpu.flags.set_cf(old.to_u64() >> bit & 1 != 0);
    Ok(())
}

/// BSF and BSR: of a zero operand the destination keeps its value, as every processor does.
fn bit_scan<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.operand::<T>(op, 1, op.b)?.to_u64();
    cpu.flags.set_zf(v == 0);
    if v != 0 {
        let n = if op.x == 0 {
            v.trailing_zeros()
        } else {
            63 - v.leading_zeros()
        };
        cpu.set(op.a, T::from_u64(n as u64));
    }
    Ok(())
}

/// TZCNT, LZCNT, POPCNT.
fn count<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.operand::<T>(op, 1, op.b)?.to_u64();
    let r = match op.x {
        0 => v.trailing_zeros().min(bits::<T>()),
        1 => v.leading_zeros() - (64 - bits::<T>()),
        _ => v.count_ones(),
    };
    let r = T::from_u64(r as u64);
    if op.x == 2 {
        cpu.flags = Flags::from_bits(if v == 0 { donjon_x86::bits::rflags::ZF } else { 0 });
    } else {
        cpu.flags.set_cf(v == 0);
        cpu.flags.set_zf(r.to_u64() == 0);
    }
    cpu.set(op.a, r);
    Ok(())
}

fn andn<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let b = cpu.operand::<T>(op, 2, op.c)?;
    let r = T::from_u64(!cpu.get::<T>(op.b).to_u64() & b.to_u64());
    cpu.flags = Flags::logic(r);
    cpu.set(op.a, r);
    Ok(())
}

/// BLSI, BLSMSK, BLSR.
fn lowest<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.operand::<T>(op, 1, op.b)?.to_u64();
    let (r, cf) = match op.x {
        0 => (v & v.wrapping_neg(), v != 0),
        1 => (v ^ v.wrapping_sub(1), v == 0),
        _ => (v & v.wrapping_sub(1), v == 0),
    };
    let r = T::from_u64(r);
    cpu.flags = Flags::result(r, cf, false, false);
    cpu.set(op.a, r);
    Ok(())
}

fn bextr<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.operand::<T>(op, 1, op.b)?.to_u64();
    let control = cpu.reg(op.c);
    let (start, len) = (control as u32 & 0xff, control as u32 >> 8 & 0xff);
    let from = if start < 64 { v >> start } else { 0 };
    let r = T::from_u64(if len < 64 { from & ((1 << len) - 1) } else { from });
    cpu.flags = Flags::logic(r);
    cpu.set(op.a, r);
    Ok(())
}

fn bzhi<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.operand::<T>(op, 1, op.b)?.to_u64();
    let n = cpu.reg(op.c) as u32 & 0xff;
    let r = T::from_u64(if n < bits::<T>() { v & ((1 << n) - 1) } else { v });
    cpu.flags = Flags::result(r, n >= bits::<T>(), false, false);
    cpu.set(op.a, r);
    Ok(())
}

fn pdep<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let mut mask = cpu.operand::<T>(op, 2, op.c)?.to_u64();
    let mut v = cpu.get::<T>(op.b).to_u64();
    let mut r = 0;
    while mask != 0 {
        let bit = mask & mask.wrapping_neg();
        r |= if v & 1 != 0 { bit } else { 0 };
        v >>= 1;
        mask ^= bit;
    }
    cpu.set(op.a, T::from_u64(r));
    Ok(())
}

fn pext<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let mut mask = cpu.operand::<T>(op, 2, op.c)?.to_u64();
    let v = cpu.get::<T>(op.b).to_u64();
    let (mut r, mut n) = (0, 0);
    while mask != 0 {
        let bit = mask & mask.wrapping_neg();
        r |= ((v & bit != 0) as u64) << n;
        n += 1;
        mask ^= bit;
    }
    cpu.set(op.a, T::from_u64(r));
    Ok(())
}

/// CRC32: the Castagnoli polynomial, bit-reflected.
fn crc32<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.operand::<T>(op, 1, op.b)?.to_u64();
    let mut crc = cpu.get::<u32>(op.a);
    for n in 0..T::SIZE {
        crc ^= (v >> (8 * n)) as u32 & 0xff;
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
        }
    }
    // The 64-bit form clears the upper half like the 32-bit one.
    cpu.set(op.a, crc);
    Ok(())
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let by_register = (i.op_count() > 1 && i.op_kind(1) == OpKind::Register) as u8 * 4;
    let source = if i.op_count() > 1 && i.op_kind(1) == OpKind::Register {
        i.op_register(1).size()
    } else {
        i.memory_size().size()
    };
    let (x, handler) = match i.mnemonic() {
        Mnemonic::Bt => (by_register, sized!(op.size, bit_test)),
        Mnemonic::Bts => (by_register | 1, sized!(op.size, bit_test)),
        Mnemonic::Btr => (by_register | 2, sized!(op.size, bit_test)),
        Mnemonic::Btc => (by_register | 3, sized!(op.size, bit_test)),
        Mnemonic::Bsf => (0, sized!(op.size, bit_scan)),
        Mnemonic::Bsr => (1, sized!(op.size, bit_scan)),
        Mnemonic::Tzcnt => (0, sized!(op.size, count)),
        Mnemonic::Lzcnt => (1, sized!(op.size, count)),
        Mnemonic::Popcnt => (2, sized!(op.size, count)),
        Mnemonic::Andn => (0, sized!(op.size, andn)),
        Mnemonic::Blsi => (0, sized!(op.size, lowest)),
        Mnemonic::Blsmsk => (1, sized!(op.size, lowest)),
        Mnemonic::Blsr => (2, sized!(op.size, lowest)),
        Mnemonic::Bextr => (0, sized!(op.size, bextr)),
        Mnemonic::Bzhi => (0, sized!(op.size, bzhi)),
        Mnemonic::Pdep => (0, sized!(op.size, pdep)),
        Mnemonic::Pext => (0, sized!(op.size, pext)),
        Mnemonic::Crc32 => (0, sized!(crate::decode::size_code(source), crc32)),
        _ => return None,
    };
    op.x = x;
    Some(handler)
}
