//! Conversions between number formats.

use super::lanes::{Element, V, high, low};
use super::shape::*;
use crate::cpu::{Cpu, R};
use crate::decode::{Handler, Op};
use crate::float::{Env, sse};
use donjon_memory::Word;
use iced_x86::Mnemonic::*;

fn packed_conversions(l: &mut Low) -> Option<Handler> {
    Some(match l.i.mnemonic() {
        Cvtps2pd | Vcvtps2pd => convert!(l, widen, u32 => u64, |e, a| sse::f32_to_f64(e, a)),
        Cvtdq2pd | Vcvtdq2pd => convert!(l, widen, u32 => u64, |e, a| sse::i32_to_f64(e, a)),
        Cvtdq2ps | Vcvtdq2ps => convert!(l, same, u32 => u32, |e, a| sse::i32_to_f32(e, a)),
        Cvtps2dq | Vcvtps2dq => convert!(l, same, u32 => u32, |e, a| sse::f32_to_i32(e, a)),
        Cvttps2dq | Vcvttps2dq => convert!(l, same, u32 => u32, |e, a| sse::f32_to_i32_truncate(e, a)),
        Cvtpd2ps | Vcvtpd2ps => convert!(l, narrow, u64 => u32, |e, a| sse::f64_to_f32(e, a)),
        Cvtpd2dq | Vcvtpd2dq => convert!(l, narrow, u64 => u32, |e, a| sse::f64_to_i32(e, a)),
        Cvttpd2dq | Vcvttpd2dq => convert!(l, narrow, u64 => u32, |e, a| sse::f64_to_i32_truncate(e, a)),
        Vcvtph2ps => convert!(l, widen, u16 => u32, |e, a| sse::f16_to_f32(e, a)),
        Vcvtps2ph => by_encoding!(l, vcvtps2ph),
        _ => return None,
    })
}

/// Handler of a conversion between elements of one size.
fn same<S: Element, D: Element, F: Convert<S, D>, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let v = source::<K>(cpu, op)?;
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let lo = D::build(|i| F::f(&mut env, S::at(low(&v), i)));
    let hi = if K == VEX256 {
        D::build(|i| F::f(&mut env, S::at(high(&v), i)))
    } else {
        0
    };
    deliver(cpu, &env)?;
    put::<K>(cpu, op.a, lo, hi);
    Ok(())
}

/// VCVTPS2PH: the destination may be memory, 8 or 16 bytes.
fn vcvtps2ph<const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.avx()?;
    let v = reg(cpu, op.b);
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let r = u16::build(|i| match i / 4 {
        0 => sse::f32_to_f16(&mut env, u32::at(low(&v), i), op.imm as u8),
        _ if K == VEX256 => sse::f32_to_f16(&mut env, u32::at(high(&v), i - 4), op.imm as u8),
        _ => 0,
    });
    if !op.is_mem(0) {
        deliver(cpu, &env)?;
        put::<VEX128>(cpu, op.a, r, 0);
        return Ok(());
    }
    // A fault of the store comes before the exceptions.
    let ea = cpu.ea(op);
    let size = if K == VEX256 { 16 } else { 8 };
    cpu.probe_write(op.seg, ea, size, size)?;
    deliver(cpu, &env)?;
    match K {
        VEX256 => cpu.write_vector(op.seg, ea, false, [r as u64, (r >> 64) as u64]),
        _ => cpu.write(op.seg, ea, r as u64),
    }
}

/// Handler of a scalar conversion: the other elements come from the first source.
fn scalar_to_vector<S: Element + Word, D: Element, F: Convert<S, D>, const K: u8>(
    cpu: &mut Cpu,
    op: &Op,
) -> R {
    begin::<K>(cpu)?;
    let v = source_scalar::<S>(cpu, op)?;
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let r = F::f(&mut env, v);
    deliver(cpu, &env)?;
    put::<K>(cpu, op.a, r.with(xmm(cpu, op.b), 0), 0);
    Ok(())
}

/// As [`scalar_to_vector`], from a general register or memory.
fn general_to_vector<S: Element + Word, D: Element, F: Convert<S, D>, const K: u8>(
    cpu: &mut Cpu,
    op: &Op,
) -> R {
    begin::<K>(cpu)?;
    let v: S = if op.mem == Op::NO_MEMORY {
        cpu.get(op.c)
    } else {
        let ea = cpu.ea(op);
        cpu.read(op.seg, ea)?
    };
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let r = F::f(&mut env, v);
    deliver(cpu, &env)?;
    put::<K>(cpu, op.a, r.with(xmm(cpu, op.b), 0), 0);
    Ok(())
}

/// Element 0 to a general register.
fn vector_to_general<S: Element + Word, D: Word, F: Convert<S, D>, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let v = source_scalar::<S>(cpu, op)?;
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let r = F::f(&mut env, v);
    deliver(cpu, &env)?;
    cpu.set(op.a, r);
    Ok(())
}

/// A [`Convert`] type from a function.
macro_rules! conversion {
    ($s:ty => $d:ty, $f:ident) => {
        struct F;
        impl Convert<$s, $d> for F {
            #[inline(always)]
            fn f(env: &mut Env, a: $s) -> $d {
                sse::$f(env, a)
            }
        }
    };
}

fn scalar_conversions(l: &mut Low) -> Option<Handler> {
    macro_rules! of {
        ($shape:ident, $s:ty => $d:ty, $f:ident) => {{
            conversion!($s => $d, $f);
            by_encoding!(l, $shape, $s, $d, F)
        }};
    }
    let from_64 = l.i.op_count() > 0 && l.is_64(l.i.op_count() - 1);
    let to_64 = l.i.op_register(0).is_gpr64();
    let handler = match l.i.mnemonic() {
        Cvtss2sd | Vcvtss2sd => of!(scalar_to_vector, u32 => u64, f32_to_f64),
        Cvtsd2ss | Vcvtsd2ss => of!(scalar_to_vector, u64 => u32, f64_to_f32),
        Cvtsi2ss | Vcvtsi2ss if from_64 => of!(general_to_vector, u64 => u32, i64_to_f32),
        Cvtsi2ss | Vcvtsi2ss => of!(general_to_vector, u32 => u32, i32_to_f32),
        Cvtsi2sd | Vcvtsi2sd if from_64 => of!(general_to_vector, u64 => u64, i64_to_f64),
        Cvtsi2sd | Vcvtsi2sd => of!(general_to_vector, u32 => u64, i32_to_f64),
        mnemonic => {
            let handler = match mnemonic {
                Cvtss2si | Vcvtss2si if to_64 => of!(vector_to_general, u32 => u64, f32_to_i64),
                Cvtss2si | Vcvtss2si => of!(vector_to_general, u32 => u32, f32_to_i32),
                Cvtsd2si | Vcvtsd2si if to_64 => of!(vector_to_general, u64 => u64, f64_to_i64),
                Cvtsd2si | Vcvtsd2si => of!(vector_to_general, u64 => u32, f64_to_i32),
                Cvttss2si | Vcvttss2si if to_64 => of!(vector_to_general, u32 => u64, f32_to_i64_truncate),
                Cvttss2si | Vcvttss2si => of!(vector_to_general, u32 => u32, f32_to_i32_truncate),
                Cvttsd2si | Vcvttsd2si if to_64 => of!(vector_to_general, u64 => u64, f64_to_i64_truncate),
                Cvttsd2si | Vcvttsd2si => of!(vector_to_general, u64 => u32, f64_to_i32_truncate),
                _ => return None,
            };
            l.two();
            return Some(handler);
        }
    };
    l.three();
    Some(handler)
}

/// CVTPI2Px: two integers from an MMX register or memory. Only the register makes the instruction an MMX
/// one. Processors take the x87 registers to MMX use even if #XM follows.
fn from_mmx<D: Element, F: Convert<u32, D>>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.sse()?;
    let v = if op.mem == Op::NO_MEMORY {
        cpu.mmx()?;
        cpu.mmx_enter();
        cpu.mm(op.b)
    } else {
        let ea = cpu.ea(op);
        cpu.read(op.seg, ea)?
    };
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let r = [F::f(&mut env, v as u32), F::f(&mut env, (v >> 32) as u32)];
    deliver(cpu, &env)?;
    let v = r[1].with(r[0].with(xmm(cpu, op.a), 0), 1);
    put::<SSE>(cpu, op.a, v, 0);
    Ok(())
}

/// CVT(T)Px2PI: two integers to an MMX register.
fn to_mmx<S: Element, F: Convert<S, u32>>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.sse()?;
    cpu.mmx()?;
    let v: V = match (op.mem, S::N) {
        (Op::NO_MEMORY, _) => xmm(cpu, op.b),
        (_, 2) => low(&load::<SSE>(cpu, op)?),
        _ => {
            let ea = cpu.ea(op);
            cpu.read::<u64>(op.seg, ea)? as V
        }
    };
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let r = [0, 1].map(|i| F::f(&mut env, S::at(v, i)));
    cpu.mmx_enter();
    deliver(cpu, &env)?;
    cpu.set_mm(op.a, r[0] as u64 | (r[1] as u64) << 32);
    Ok(())
}

/// The handler of a conversion between an MMX and an XMM register.
pub(super) fn lower_mmx(l: &Low) -> Option<Handler> {
    macro_rules! from {
        ($d:ty, $f:ident) => {{
            conversion!(u32 => $d, $f);
            from_mmx::<$d, F>
        }};
    }
    macro_rules! to {
        ($s:ty, $f:ident) => {{
            conversion!($s => u32, $f);
            to_mmx::<$s, F>
        }};
    }
    Some(match l.i.mnemonic() {
        Cvtpi2ps => from!(u32, i32_to_f32),
        Cvtpi2pd => from!(u64, i32_to_f64),
        Cvtps2pi => to!(u32, f32_to_i32),
        Cvttps2pi => to!(u32, f32_to_i32_truncate),
        Cvtpd2pi => to!(u64, f64_to_i32),
        Cvttpd2pi => to!(u64, f64_to_i32_truncate),
        _ => return None,
    })
}

/// The handler of any other conversion.
pub(super) fn lower(l: &mut Low) -> Option<Handler> {
    packed_conversions(l).or_else(|| scalar_conversions(l))
}
