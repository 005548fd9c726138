//! Floating-point arithmetic and comparisons.

use super::lanes::{Element, V, high, low};
use super::shape::*;
use crate::cpu::{Cpu, Flags, R};
use crate::decode::{Handler, Op};
use crate::float::{Env, sse};
use donjon_memory::Word;
use iced_x86::Mnemonic::*;

fn arithmetic(l: &mut Low) -> Option<Handler> {
    macro_rules! f32 {
        ($shape:ident, $f:ident) => {
            float!(l, $shape, u32, |e, a, b| sse::$f(e, a, b))
        };
    }
    macro_rules! f64 {
        ($shape:ident, $f:ident) => {
            float!(l, $shape, u64, |e, a, b| sse::$f(e, a, b))
        };
    }
    let plain = (l.op.a, l.op.b, l.op.c);
    l.three();
    let handler = match l.i.mnemonic() {
        Addps | Vaddps => f32!(packed, add_f32),
        Addpd | Vaddpd => f64!(packed, add_f64),
        Addss | Vaddss => f32!(scalar, add_f32),
        Addsd | Vaddsd => f64!(scalar, add_f64),
        Subps | Vsubps => f32!(packed, sub_f32),
        Subpd | Vsubpd => f64!(packed, sub_f64),
        Subss | Vsubss => f32!(scalar, sub_f32),
        Subsd | Vsubsd => f64!(scalar, sub_f64),
        Mulps | Vmulps => f32!(packed, mul_f32),
        Mulpd | Vmulpd => f64!(packed, mul_f64),
        Mulss | Vmulss => f32!(scalar, mul_f32),
        Mulsd | Vmulsd => f64!(scalar, mul_f64),
        Divps | Vdivps => f32!(packed, div_f32),
        Divpd | Vdivpd => f64!(packed, div_f64),
        Divss | Vdivss => f32!(scalar, div_f32),
        Divsd | Vdivsd => f64!(scalar, div_f64),
        Minps | Vminps => f32!(packed, min_f32),
        Minpd | Vminpd => f64!(packed, min_f64),
        Minss | Vminss => f32!(scalar, min_f32),
        Minsd | Vminsd => f64!(scalar, min_f64),
        Maxps | Vmaxps => f32!(packed, max_f32),
        Maxpd | Vmaxpd => f64!(packed, max_f64),
        Maxss | Vmaxss => f32!(scalar, max_f32),
        Maxsd | Vmaxsd => f64!(scalar, max_f64),
        Haddps | Vhaddps => f32!(horizontal, add_f32),
        Haddpd | Vhaddpd => f64!(horizontal, add_f64),
        Hsubps | Vhsubps => f32!(horizontal, sub_f32),
        Hsubpd | Vhsubpd => f64!(horizontal, sub_f64),
        Addsubps | Vaddsubps => float!(l, packed, u32, |e, a, b, _, n| match n & 1 {
            0 => sse::sub_f32(e, a, b),
            _ => sse::add_f32(e, a, b),
        }),
        Addsubpd | Vaddsubpd => float!(l, packed, u64, |e, a, b, _, n| match n & 1 {
            0 => sse::sub_f64(e, a, b),
            _ => sse::add_f64(e, a, b),
        }),
        Sqrtss | Vsqrtss => float!(l, scalar, u32, |e, _, b| sse::sqrt_f32(e, b)),
        Sqrtsd | Vsqrtsd => float!(l, scalar, u64, |e, _, b| sse::sqrt_f64(e, b)),
        Rcpss | Vrcpss => float!(l, scalar, u32, |_, _, b| sse::rcp_f32(b)),
        Rsqrtss | Vrsqrtss => float!(l, scalar, u32, |_, _, b| sse::rsqrt_f32(b)),
        Roundss | Vroundss => float!(l, scalar, u32, |e, _, b, imm, _| sse::round_f32(e, b, imm)),
        Roundsd | Vroundsd => float!(l, scalar, u64, |e, _, b, imm, _| sse::round_f64(e, b, imm)),
        Dpps | Vdpps => by_encoding!(l, dpps),
        Dppd | Vdppd => by_encoding!(l, dppd),
        _ => {
            (l.op.a, l.op.b, l.op.c) = plain;
            return None;
        }
    };
    Some(handler)
}

/// Packed instructions of one source.
fn unary(l: &mut Low) -> Option<Handler> {
    let plain = l.op.c;
    l.two();
    let handler = match l.i.mnemonic() {
        Sqrtps | Vsqrtps => float!(l, packed, u32, |e, _, b| sse::sqrt_f32(e, b)),
        Sqrtpd | Vsqrtpd => float!(l, packed, u64, |e, _, b| sse::sqrt_f64(e, b)),
        Rcpps | Vrcpps => float!(l, packed, u32, |_, _, b| sse::rcp_f32(b)),
        Rsqrtps | Vrsqrtps => float!(l, packed, u32, |_, _, b| sse::rsqrt_f32(b)),
        Roundps | Vroundps => float!(l, packed, u32, |e, _, b, imm, _| sse::round_f32(e, b, imm)),
        Roundpd | Vroundpd => float!(l, packed, u64, |e, _, b, imm, _| sse::round_f64(e, b, imm)),
        Comiss | Vcomiss => compare!(l, u32, comis_f32),
        Comisd | Vcomisd => compare!(l, u64, comis_f64),
        Ucomiss | Vucomiss => compare!(l, u32, ucomis_f32),
        Ucomisd | Vucomisd => compare!(l, u64, ucomis_f64),
        _ => {
            l.op.c = plain;
            return None;
        }
    };
    Some(handler)
}

fn predicates(l: &mut Low) -> Option<Handler> {
    let handler = match l.i.mnemonic() {
        Cmpps | Vcmpps => float!(l, packed, u32, |e, a, b, imm, _| sse::cmp_f32(e, a, b, imm)),
        Cmppd | Vcmppd => float!(l, packed, u64, |e, a, b, imm, _| sse::cmp_f64(e, a, b, imm)),
        Cmpss | Vcmpss => float!(l, scalar, u32, |e, a, b, imm, _| sse::cmp_f32(e, a, b, imm)),
        Cmpsd | Vcmpsd => float!(l, scalar, u64, |e, a, b, imm, _| sse::cmp_f64(e, a, b, imm)),
        _ => return None,
    };
    l.three();
    // The legacy encodings know the first eight predicates.
    l.op.imm &= if l.k == SSE { 7 } else { 31 };
    Some(handler)
}

/// The comparison behind (U)COMISx.
trait Compare<T> {
    fn f(env: &mut Env, a: T, b: T) -> u32;
}

fn comis<T: Element + Word, F: Compare<T>, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let b = source_scalar::<T>(cpu, op)?;
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let bits = F::f(&mut env, T::at(xmm(cpu, op.a), 0), b);
    deliver(cpu, &env)?;
    cpu.flags = Flags::from_bits(bits as u64);
    Ok(())
}

macro_rules! compare {
    ($l:ident, $t:ty, $f:ident) => {{
        struct F;
        impl Compare<$t> for F {
            #[inline(always)]
            fn f(env: &mut Env, a: $t, b: $t) -> u32 {
                sse::$f(env, a, b)
            }
        }
        by_encoding!($l, comis, $t, F)
    }};
}
use compare;

fn singles(v: V) -> [u32; 4] {
    std::array::from_fn(|i| u32::at(v, i))
}

fn dpps<const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let (b, a) = (source::<K>(cpu, op)?, reg(cpu, op.b));
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let imm = op.imm as u8;
    let (lo, hi) = if K == VEX256 {
        let both = |y| [singles(low(y)), singles(high(y))];
        let [lo, hi] = sse::dpps(&mut env, both(&a), both(&b), imm);
        (lo, hi)
    } else {
        let [lo] = sse::dpps(&mut env, [singles(low(&a))], [singles(low(&b))], imm);
        (lo, [0; 4])
    };
    deliver(cpu, &env)?;
    put::<K>(cpu, op.a, u32::build(|i| lo[i]), u32::build(|i| hi[i]));
    Ok(())
}

fn dppd<const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let (b, a) = (source::<K>(cpu, op)?, reg(cpu, op.b));
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let r = sse::dppd(&mut env, [a[0], a[1]], [b[0], b[1]], op.imm as u8);
    deliver(cpu, &env)?;
    put::<K>(cpu, op.a, u64::build(|i| r[i]), 0);
    Ok(())
}

/// The handler of a floating-point instruction that is no conversion.
pub(super) fn lower(l: &mut Low) -> Option<Handler> {
    // String instructions share two of the mnemonics.
    arithmetic(l).or_else(|| unary(l)).or_else(|| predicates(l))
}
