//! Shifts and rotates (Intel SDM vol. 2B, SAL/SAR/SHL/SHR and RCL/RCR/ROL/ROR; SHLD and SHRD).

use super::sized;
use crate::cpu::{Cpu, Flags, R};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// A shift of `a` by `n`, already masked to 5 or 6 bits and not zero.
trait Shift {
    fn apply<T: Word>(f: &mut Flags, a: T, n: u32) -> T;
}

const fn bits<T: Word>() -> u32 {
    T::SIZE as u32 * 8
}

fn top<T: Word>(v: u64) -> bool {
    v >> (bits::<T>() - 1) & 1 != 0
}

struct Shl;
impl Shift for Shl {
    #[inline(always)]
    fn apply<T: Word>(f: &mut Flags, a: T, n: u32) -> T {
        let wide = (a.to_u64() as u128) << n;
        let r = T::from_u64(wide as u64);
        let cf = wide >> bits::<T>() & 1 != 0;
        *f = Flags::result(r, cf, top::<T>(r.to_u64()) ^ cf, false);
        r
    }
}

struct Shr;
impl Shift for Shr {
    #[inline(always)]
    fn apply<T: Word>(f: &mut Flags, a: T, n: u32) -> T {
        let a = a.to_u64();
        let cf = n <= bits::<T>() && a >> (n - 1) & 1 != 0;
        let r = T::from_u64(if n < 64 { a >> n } else { 0 });
        // OF is the sign of the operand for a shift by one; undefined otherwise, where the processor
        // gives the exclusive or of the result's two top bits.
        let of = (r.to_u64() ^ r.to_u64() << 1) >> (bits::<T>() - 1) & 1 != 0;
        *f = Flags::result(r, cf, of, false);
        r
    }
}

struct Sar;
impl Shift for Sar {
    #[inline(always)]
    fn apply<T: Word>(f: &mut Flags, a: T, n: u32) -> T {
        let a = a.to_i64();
        let cf = a >> (n - 1).min(63) & 1 != 0;
        let r = T::from_u64((a >> n.min(63)) as u64);
        *f = Flags::result(r, cf, false, false);
        r
    }
}

struct Rol;
impl Shift for Rol {
    #[inline(always)]
    fn apply<T: Word>(f: &mut Flags, a: T, n: u32) -> T {
        let (w, a) = (bits::<T>(), a.to_u64());
        let k = n % w;
        let r = if k == 0 { a } else { a << k | a >> (w - k) };
        let r = T::from_u64(r);
        let cf = r.to_u64() & 1 != 0;
        f.set_cf(cf);
        f.set_of(top::<T>(r.to_u64()) ^ cf);
        r
    }
}

struct Ror;
impl Shift for Ror {
    #[inline(always)]
    fn apply<T: Word>(f: &mut Flags, a: T, n: u32) -> T {
        let (w, a) = (bits::<T>(), a.to_u64());
        let k = n % w;
        let r = T::from_u64(if k == 0 { a } else { a >> k | a << (w - k) });
        let cf = top::<T>(r.to_u64());
        f.set_cf(cf);
        f.set_of(cf ^ top::<T>(r.to_u64() << 1));
        r
    }
}

struct Rcl;
impl Shift for Rcl {
    fn apply<T: Word>(f: &mut Flags, a: T, n: u32) -> T {
        let w = bits::<T>() + 1;
        let k = n % w;
        let wide = a.to_u64() as u128 | (f.cf() as u128) << bits::<T>();
        let turned = if k == 0 { wide } else { wide << k | wide >> (w - k) };
        let r = T::from_u64(turned as u64);
        let cf = turned >> bits::<T>() & 1 != 0;
        f.set_cf(cf);
        f.set_of(top::<T>(r.to_u64()) ^ cf);
        r
    }
}

struct Rcr;
impl Shift for Rcr {
    fn apply<T: Word>(f: &mut Flags, a: T, n: u32) -> T {
        let w = bits::<T>() + 1;
        let k = n % w;
        let wide = a.to_u64() as u128 | (f.cf() as u128) << bits::<T>();
        let turned = if k == 0 { wide } else { wide >> k | wide << (w - k) };
        let r = T::from_u64(turned as u64);
        f.set_cf(turned >> bits::<T>() & 1 != 0);
        f.set_of(top::<T>(r.to_u64()) ^ top::<T>(r.to_u64() << 1));
        r
    }
}

#[inline(always)]
fn masked<T: Word>(n: u64) -> u32 {
    n as u32 & if T::SIZE == 8 { 63 } else { 31 }
}

#[inline(always)]
fn on_register<S: Shift, T: Word>(cpu: &mut Cpu, op: &Op, n: u32) -> R {
    let a = cpu.get::<T>(op.a);
    if n != 0 {
        let r = S::apply(&mut cpu.flags, a, n);
        cpu.set(op.a, r);
    } else if T::SIZE == 4 {
        // A count of zero still writes the register: the upper half is cleared.
        cpu.set(op.a, a);
    }
    Ok(())
}

#[inline(always)]
fn on_memory<S: Shift, T: Word>(cpu: &mut Cpu, op: &Op, n: u32) -> R {
    let mut f = cpu.flags;
    cpu.update::<T>(op.seg, cpu.ea(op), false, |a| {
        if n == 0 { a } else { S::apply(&mut f, a, n) }
    })?;
    cpu.flags = f;
    Ok(())
}

fn reg_imm<S: Shift, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    on_register::<S, T>(cpu, op, masked::<T>(op.imm))
}
fn reg_cl<S: Shift, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    on_register::<S, T>(cpu, op, masked::<T>(cpu.regs[1]))
}
fn mem_imm<S: Shift, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    on_memory::<S, T>(cpu, op, masked::<T>(op.imm))
}
fn mem_cl<S: Shift, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    on_memory::<S, T>(cpu, op, masked::<T>(cpu.regs[1]))
}

fn shift<S: Shift>(i: &Instruction, op: &Op) -> Handler {
    let by_cl = i.op_kind(1) == OpKind::Register && i.op_register(1) == Register::CL;
    match (op.is_mem(0), by_cl) {
        (false, false) => sized!(op.size, reg_imm, S),
        (false, true) => sized!(op.size, reg_cl, S),
        (true, false) => sized!(op.size, mem_imm, S),
        (true, true) => sized!(op.size, mem_cl, S),
    }
}

/// SHLD and SHRD of `a` with bits from `b`. Counts beyond a 16-bit operand's size are undefined by the
/// manual; the processor rotates the pair on through the first operand.
fn double<const LEFT: bool, T: Word>(f: &mut Flags, a: T, b: T, n: u32) -> T {
    let w = bits::<T>();
    let (a, b) = (a.to_u64() as u128, b.to_u64() as u128);
    let (r, cf) = if LEFT {
        let wide = if w == 16 {
            a << 32 | b << 16 | a
        } else {
            a << w | b
        };
        let span = if w == 16 { 48 } else { 2 * w };
        (wide >> (span - w - n), wide >> (span - n) & 1 != 0)
    } else {
        let wide = if w == 16 {
            a << 32 | b << 16 | a
        } else {
            b << w | a
        };
        (wide >> n, wide >> (n - 1) & 1 != 0)
    };
    let r = T::from_u64(r as u64);
    let of = top::<T>(r.to_u64()) ^ top::<T>(a as u64);
    *f = Flags::result(r, cf, of, false);
    r
}

fn shld_shrd<const LEFT: bool, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let n = masked::<T>(if op.x != 0 { cpu.regs[1] } else { op.imm });
    let b = cpu.get::<T>(op.b);
    if op.is_mem(0) {
        let mut f = cpu.flags;
        cpu.update::<T>(op.seg, cpu.ea(op), false, |a| {
            if n == 0 {
                a
            } else {
                double::<LEFT, T>(&mut f, a, b, n)
            }
        })?;
        cpu.flags = f;
        return Ok(());
    }
    let a = cpu.get::<T>(op.a);
    let r = if n == 0 {
        a
    } else {
        double::<LEFT, T>(&mut cpu.flags, a, b, n)
    };
    cpu.set(op.a, r);
    Ok(())
}

fn shld<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    shld_shrd::<true, T>(cpu, op)
}
fn shrd<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    shld_shrd::<false, T>(cpu, op)
}

/// RORX, SHLX, SHRX, SARX: no flags.
fn shift_x<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let a = cpu.operand::<T>(op, 1, op.b)?;
    let n = masked::<T>(if op.x == 0 { op.imm } else { cpu.reg(op.c) });
    let r = match op.x {
        0 if n == 0 => a,
        0 => T::from_u64(a.to_u64() >> n | a.to_u64() << (bits::<T>() - n)),
        1 => T::from_u64(a.to_u64() << n),
        2 => T::from_u64(a.to_u64() >> n),
        _ => T::from_u64((a.to_i64() >> n) as u64),
    };
    cpu.set(op.a, r);
    Ok(())
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    Some(match i.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => shift::<Shl>(i, op),
        Mnemonic::Shr => shift::<Shr>(i, op),
        Mnemonic::Sar => shift::<Sar>(i, op),
        Mnemonic::Rol => shift::<Rol>(i, op),
        Mnemonic::Ror => shift::<Ror>(i, op),
        Mnemonic::Rcl => shift::<Rcl>(i, op),
        Mnemonic::Rcr => shift::<Rcr>(i, op),
        Mnemonic::Shld | Mnemonic::Shrd => {
            op.x = (i.op_kind(2) == OpKind::Register) as u8;
            if i.mnemonic() == Mnemonic::Shld {
                sized!(op.size, shld)
            } else {
                sized!(op.size, shrd)
            }
        }
        Mnemonic::Rorx | Mnemonic::Shlx | Mnemonic::Shrx | Mnemonic::Sarx => {
            op.x = match i.mnemonic() {
                Mnemonic::Rorx => 0,
                Mnemonic::Shlx => 1,
                Mnemonic::Shrx => 2,
                _ => 3,
            };
            sized!(op.size, shift_x)
        }
        _ => return None,
    })
}
