//! Decimal adjustments, flag moves and other one-byte veterans.

use crate::cpu::{Cpu, Flags, R, Software, Stop};
use crate::decode::{Handler, Op};
use donjon_x86::bits::rflags;
use donjon_x86::exception;
use iced_x86::{Code, Instruction, Mnemonic};

fn al(cpu: &Cpu) -> u8 {
    cpu.regs[0] as u8
}

fn aaa_aas(cpu: &mut Cpu, op: &Op) -> R {
    let ax = cpu.get::<u16>(0);
    let adjust = ax & 15 > 9 || cpu.flags.af();
    let r = match (adjust, op.x == 0) {
        (false, _) => ax,
        (true, true) => ax.wrapping_add(0x106),
        (true, false) => ax.wrapping_sub(6).wrapping_sub(0x100),
    };
    let r = r & 0xff0f;
    cpu.set(0, r);
    cpu.flags = Flags::result(r as u8, adjust, false, adjust);
    Ok(())
}

fn daa_das(cpu: &mut Cpu, op: &Op) -> R {
    let (old, cf, af) = (al(cpu), cpu.flags.cf(), cpu.flags.af());
    let low = old & 15 > 9 || af;
    let high = old > 0x99 || cf;
    let adjust = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let r = if op.x == 0 {
        old.wrapping_add(adjust)
    } else {
        old.wrapping_sub(adjust)
    };
    // DAS borrows out of the low digit too.
    let carry = high || op.x != 0 && low && old < 6;
    cpu.set(0, r);
    cpu.flags = Flags::result(r, carry, false, low);
    Ok(())
}

fn aam(cpu: &mut Cpu, op: &Op) -> R {
    let base = op.imm as u8;
    if base == 0 {
        return Err(cpu.raise(exception::DE));
    }
    let a = al(cpu);
    cpu.set(0, (a / base) as u16 * 256 + (a % base) as u16);
    cpu.flags = Flags::result(a % base, false, false, false);
    Ok(())
}

fn aad(cpu: &mut Cpu, op: &Op) -> R {
    let ax = cpu.get::<u16>(0);
    let r = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(op.imm as u8));
    cpu.set(0, r as u16);
    cpu.flags = Flags::result(r, false, false, false);
    Ok(())
}

fn lahf(cpu: &mut Cpu, _: &Op) -> R {
    let f = cpu.flags.bits() as u8 | rflags::ONE as u8;
    cpu.set(Op::HIGH_BYTE, f);
    Ok(())
}

fn sahf(cpu: &mut Cpu, _: &Op) -> R {
    let of = cpu.flags.of();
    cpu.flags = Flags::from_bits(cpu.get::<u8>(Op::HIGH_BYTE) as u64);
    cpu.flags.set_of(of);
    Ok(())
}

fn salc(cpu: &mut Cpu, _: &Op) -> R {
    let v = if cpu.flags.cf() { 0xffu8 } else { 0 };
    cpu.set(0, v);
    Ok(())
}

fn carry(cpu: &mut Cpu, op: &Op) -> R {
    let cf = match op.x {
        0 => false,
        1 => true,
        _ => !cpu.flags.cf(),
    };
    cpu.flags.set_cf(cf);
    Ok(())
}

fn direction(cpu: &mut Cpu, op: &Op) -> R {
    cpu.rflags = cpu.rflags & !rflags::DF | if op.x != 0 { rflags::DF } else { 0 };
    Ok(())
}

fn cli(cpu: &mut Cpu, _: &Op) -> R {
    if cpu.protected() && cpu.cpl > cpu.iopl() {
        return Err(cpu.gp(0));
    }
    cpu.rflags &= !rflags::IF;
    Ok(())
}

fn sti(cpu: &mut Cpu, _: &Op) -> R {
    if cpu.protected() && cpu.cpl > cpu.iopl() {
        return Err(cpu.gp(0));
    }
    if cpu.rflags & rflags::IF == 0 {
        cpu.rflags |= rflags::IF;
        cpu.shadow = true;
        cpu.skip_step = false;
    }
    Err(Stop::EndBlock)
}

fn software(cpu: &mut Cpu, vector: u8, how: Software) -> Stop {
    let stop = cpu.raise(vector);
    cpu.fault.software = Some(how);
    stop
}

fn int(cpu: &mut Cpu, op: &Op) -> R {
    Err(software(cpu, op.imm as u8, Software::Int))
}
fn int3(cpu: &mut Cpu, _: &Op) -> R {
    Err(software(cpu, exception::BP, Software::Int))
}
fn int1(cpu: &mut Cpu, _: &Op) -> R {
    Err(software(cpu, exception::DB, Software::Icebp))
}
fn into(cpu: &mut Cpu, _: &Op) -> R {
    if cpu.flags.of() {
        return Err(software(cpu, exception::OF, Software::Int));
    }
    Ok(())
}

fn bound(cpu: &mut Cpu, op: &Op) -> R {
    let ea = cpu.ea(op);
    let (v, low, high) = if op.size == 1 {
        let low = cpu.read::<u16>(op.seg, ea)? as i16 as i64;
        let high = cpu.read::<u16>(op.seg, cpu.ea_plus(op, 2))? as i16 as i64;
        (cpu.get::<u16>(op.a) as i16 as i64, low, high)
    } else {
        let low = cpu.read::<u32>(op.seg, ea)? as i32 as i64;
        let high = cpu.read::<u32>(op.seg, cpu.ea_plus(op, 4))? as i32 as i64;
        (cpu.get::<u32>(op.a) as i32 as i64, low, high)
    };
    if v < low || v > high {
        return Err(cpu.raise(exception::BR));
    }
    Ok(())
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    use Mnemonic::*;
    let (x, handler): (u8, Handler) = match i.mnemonic() {
        Aaa => (0, aaa_aas),
        Aas => (1, aaa_aas),
        Daa => (0, daa_das),
        Das => (1, daa_das),
        Aam => (0, aam),
        Aad => (0, aad),
        Lahf => (0, lahf),
        Sahf => (0, sahf),
        Salc => (0, salc),
        Clc => (0, carry),
        Stc => (1, carry),
        Cmc => (2, carry),
        Cld => (0, direction),
        Std => (1, direction),
        Cli => (0, cli),
        Sti => (0, sti),
        Int => (0, int),
        Int3 => (0, int3),
        Int1 => (0, int1),
        Into => (0, into),
        Bound => {
            op.size = if i.code() == Code::Bound_r16_m1616 { 1 } else { 2 };
            (0, bound)
        }
        _ => return None,
    };
    if matches!(i.mnemonic(), Sti | Cli | Int | Int3 | Int1 | Into) {
        op.bits |= Op::ENDS_BLOCK;
    }
    op.x = x;
    Some(handler)
}
