//! XCHG, XADD and compare-and-exchange.

use super::sized;
use crate::cpu::{Cpu, Flags, Kind, Place, R};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use iced_x86::{Instruction, Mnemonic};

fn xchg_rr<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let (a, b) = (cpu.get::<T>(op.a), cpu.get::<T>(op.b));
    cpu.set(op.a, b);
    cpu.set(op.b, a);
    Ok(())
}

/// With memory the exchange is locked, prefix or not (Intel SDM vol. 3A §9.1.2.1).
fn xchg_m<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let register = if op.is_mem(0) { op.b } else { op.a };
    let v = cpu.get::<T>(register);
    let old = cpu.update::<T>(op.seg, cpu.ea(op), true, |_| v)?;
    cpu.set(register, old);
    Ok(())
}

fn xadd<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let b = cpu.get::<T>(op.b);
    let add = |a: T| T::from_u64(a.to_u64().wrapping_add(b.to_u64()));
    let a = if op.is_mem(0) {
        let a = cpu.update::<T>(op.seg, cpu.ea(op), op.locked(), add)?;
        cpu.set(op.b, a);
        a
    } else {
        let a = cpu.get::<T>(op.a);
        cpu.set(op.b, a);
        cpu.set(op.a, add(a));
        a
    };
    cpu.flags = Flags::add(a, b, add(a));
    Ok(())
}

fn cmpxchg<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let expected = cpu.get::<T>(0);
    let new = cpu.get::<T>(op.b);
    let same = |a: T| a.to_u64() == expected.to_u64();
    // Memory is written in either case: with what was there if the comparison fails.
    let a = if op.is_mem(0) {
        cpu.update::<T>(op.seg, cpu.ea(op), op.locked(), |a| if same(a) { new } else { a })?
    } else {
        cpu.get::<T>(op.a)
    };
    cpu.flags = Flags::sub(
        expected,
        a,
        T::from_u64(expected.to_u64().wrapping_sub(a.to_u64())),
    );
    if !same(a) {
        cpu.set(0, a);
        // A 32-bit register operand is written back too, which clears its upper half.
    } else if !op.is_mem(0) {
        cpu.set(op.a, new);
    }
    Ok(())
}

fn cmpxchg8b(cpu: &mut Cpu, op: &Op) -> R {
    let expected = cpu.regs[0] & 0xffff_ffff | cpu.regs[2] << 32;
    let new = cpu.regs[3] & 0xffff_ffff | cpu.regs[1] << 32;
    let old = cpu.update::<u64>(op.seg, cpu.ea(op), op.locked(), |a| {
        if a == expected { new } else { a }
    })?;
    cpu.flags.set_zf(old == expected);
    if old != expected {
        cpu.set(0, old as u32);
        cpu.set(2, (old >> 32) as u32);
    }
    Ok(())
}

fn cmpxchg16b(cpu: &mut Cpu, op: &Op) -> R {
    let pair = |lo: u64, hi: u64| lo as u128 | (hi as u128) << 64;
    let expected = pair(cpu.regs[0], cpu.regs[2]);
    let new = pair(cpu.regs[3], cpu.regs[1]);
    let linear = cpu.linear(op.seg, cpu.ea(op), 16, Kind::Write)?;
    if linear & 15 != 0 {
        return Err(cpu.gp(0));
    }
    if cpu.checks_data() {
        cpu.probe_write(op.seg, cpu.ea(op), 16, 1)?;
    }
    let old = match cpu.place(op.seg, linear, Kind::Write)? {
        Place::Ram(at) => cpu
            .board
            .ram
            .compare_exchange_128(at, expected, new)
            .unwrap_or_else(|seen| seen),
        Place::Device(p) => {
            let old = pair(cpu.device_read(p, 8), cpu.device_read(p + 8, 8));
            if old == expected {
                cpu.device_write(p, 8, new as u64);
                cpu.device_write(p + 8, 8, (new >> 64) as u64);
            }
            old
        }
    };
    cpu.flags.set_zf(old == expected);
    if old != expected {
        cpu.regs[0] = old as u64;
        cpu.regs[2] = (old >> 64) as u64;
    }
    Ok(())
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    Some(match i.mnemonic() {
        Mnemonic::Xchg if op.mem == Op::NO_MEMORY => sized!(op.size, xchg_rr),
        Mnemonic::Xchg => sized!(op.size, xchg_m),
        Mnemonic::Xadd => sized!(op.size, xadd),
        Mnemonic::Cmpxchg => sized!(op.size, cmpxchg),
        Mnemonic::Cmpxchg8b => cmpxchg8b,
        Mnemonic::Cmpxchg16b => cmpxchg16b,
        _ => return None,
    })
}
