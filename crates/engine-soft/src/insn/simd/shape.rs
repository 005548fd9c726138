//! The shapes vector instructions come in. A shape turns a function on elements or lanes into handlers for
//! the legacy, VEX.128 and VEX.256 encodings with register and memory sources.
//!
//! Shapes see their operands in one order: [`Op::a`] the destination, [`Op::b`] the first source and
//! [`Op::c`] the last one, which may be in memory instead. [`Low::three`] and [`Low::two`] arrange that.

use super::lanes::{Element, V, Y, high, low};
use crate::cpu::{Cpu, R};
use crate::decode::Op;
use crate::float::Env;
use donjon_memory::Word;
use iced_x86::{EncodingKind, Instruction, Register};

/// Legacy encoding, 128 bits: bits 255:128 of the destination stay (SDM vol. 1 §14.8).
pub(super) const SSE: u8 = 0;
/// VEX encoding, 128 bits or scalar: bits 255:128 of the destination become zero.
pub(super) const VEX128: u8 = 1;
/// VEX encoding, 256 bits.
pub(super) const VEX256: u8 = 2;

/// An instruction being lowered.
pub(super) struct Low<'a> {
    /// What was decoded.
    pub i: &'a Instruction,
    /// What it becomes.
    pub op: &'a mut Op,
    /// [`SSE`], [`VEX128`] or [`VEX256`].
    pub k: u8,
}

impl<'a> Low<'a> {
    /// `None` for an encoding that is not ours.
    pub fn new(i: &'a Instruction, op: &'a mut Op) -> Option<Self> {
        let wide = (0..i.op_count()).any(|n| i.op_register(n).is_ymm()) || i.memory_size().size() == 32;
        let k = match i.encoding() {
            EncodingKind::Legacy => SSE,
            EncodingKind::VEX if wide => VEX256,
            EncodingKind::VEX => VEX128,
            _ => return None,
        };
        Some(Self { i, op, k })
    }

    /// Destination and two sources; in the legacy encoding the destination is the first source.
    pub fn three(&mut self) {
        if self.k == SSE {
            (self.op.c, self.op.b) = (self.op.b, self.op.a);
        }
    }

    /// Destination and one source.
    pub fn two(&mut self) {
        self.op.c = self.op.b;
    }

    /// Whether operand `n` is in memory.
    pub fn is_mem(&self, n: u8) -> bool {
        self.op.mem == n
    }

    /// Whether operand `n`, a general register or its alternative in memory, has 64 bits.
    pub fn is_64(&self, n: u32) -> bool {
        let r = self.i.op_register(n);
        if r == Register::None {
            self.i.memory_size().size() == 8
        } else {
            r.is_gpr64()
        }
    }
}

/// The instance of a handler for the encoding of `$l`.
macro_rules! by_encoding {
    ($l:expr, $h:ident $(, $t:ty)*) => {
        match $l.k {
            SSE => $h::<$($t,)* { SSE }> as Handler,
            VEX128 => $h::<$($t,)* { VEX128 }> as Handler,
            _ => $h::<$($t,)* { VEX256 }> as Handler,
        }
    };
}
pub(super) use by_encoding;

/// The availability check of an encoding.
#[inline(always)]
pub(super) fn begin<const K: u8>(cpu: &mut Cpu) -> R {
    if K == SSE { cpu.sse() } else { cpu.avx() }
}

/// A whole register.
#[inline(always)]
pub(super) fn reg(cpu: &Cpu, n: u8) -> Y {
    cpu.ymm[(n & 15) as usize]
}

/// Bits 127:0 of a register.
#[inline(always)]
pub(super) fn xmm(cpu: &Cpu, n: u8) -> V {
    low(&cpu.ymm[(n & 15) as usize])
}

/// Writes a destination as the encoding does.
#[inline(always)]
pub(super) fn put<const K: u8>(cpu: &mut Cpu, n: u8, lo: V, hi: V) {
    let r = &mut cpu.ymm[(n & 15) as usize];
    (r[0], r[1]) = (lo as u64, (lo >> 64) as u64);
    if K == VEX256 {
        (r[2], r[3]) = (hi as u64, (hi >> 64) as u64);
    } else if K == VEX128 {
        (r[2], r[3]) = (0, 0);
    }
}

/// The memory operand. Legacy encodings want it aligned (SDM vol. 1 §14.9).
#[inline(never)]
pub(super) fn load<const K: u8>(cpu: &mut Cpu, op: &Op) -> R<Y> {
    let ea = cpu.ea(op);
    if K == VEX256 {
        return cpu.read_vector::<4>(op.seg, ea, false);
    }
    let [a, b] = cpu.read_vector::<2>(op.seg, ea, K == SSE)?;
    Ok([a, b, 0, 0])
}

/// The last source, of the encoding's full width.
#[inline(always)]
pub(super) fn source<const K: u8>(cpu: &mut Cpu, op: &Op) -> R<Y> {
    if op.mem == Op::NO_MEMORY {
        Ok(reg(cpu, op.c))
    } else {
        load::<K>(cpu, op)
    }
}

/// The last source if only its element 0 counts.
#[inline(always)]
pub(super) fn source_scalar<T: Element + Word>(cpu: &mut Cpu, op: &Op) -> R<T> {
    if op.mem == Op::NO_MEMORY {
        return Ok(T::at(xmm(cpu, op.c), 0));
    }
    let ea = cpu.ea(op);
    cpu.read(op.seg, ea)
}

/// The last source if its low `bytes` bytes count: 2, 4, 8 or 16, and in memory unaligned.
#[inline(always)]
pub(super) fn source_part(cpu: &mut Cpu, op: &Op, bytes: usize) -> R<V> {
    if op.mem == Op::NO_MEMORY {
        Ok(xmm(cpu, op.c))
    } else {
        load_part(cpu, op, bytes)
    }
}

#[inline(never)]
fn load_part(cpu: &mut Cpu, op: &Op, bytes: usize) -> R<V> {
    let ea = cpu.ea(op);
    Ok(match bytes {
        2 => cpu.read::<u16>(op.seg, ea)? as V,
        4 => cpu.read::<u32>(op.seg, ea)? as V,
        8 => cpu.read::<u64>(op.seg, ea)? as V,
        _ => {
            let [a, b] = cpu.read_vector::<2>(op.seg, ea, false)?;
            a as V | (b as V) << 64
        }
    })
}

/// A function on two lanes: first and last source, the immediate, and which lane it is.
pub(super) trait Lane {
    fn f(a: V, b: V, imm: u8, lane: usize) -> V;
}

/// Handler of a [`Lane`] function.
pub(super) fn lanewise<F: Lane, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let b = source::<K>(cpu, op)?;
    let a = reg(cpu, op.b);
    let lo = F::f(low(&a), low(&b), op.imm as u8, 0);
    let hi = if K == VEX256 {
        F::f(high(&a), high(&b), op.imm as u8, 1)
    } else {
        0
    };
    put::<K>(cpu, op.a, lo, hi);
    Ok(())
}

macro_rules! lane_fn {
    ($name:ident: |$a:pat_param, $b:pat_param| $body:expr) => {
        lane_fn!($name: |$a, $b, _, _| $body)
    };
    ($name:ident: |$a:pat_param, $b:pat_param, $imm:pat_param| $body:expr) => {
        lane_fn!($name: |$a, $b, $imm, _| $body)
    };
    ($name:ident: |$a:pat_param, $b:pat_param, $imm:pat_param, $lane:pat_param| $body:expr) => {
        struct $name;
        impl Lane for $name {
            #[inline(always)]
            fn f($a: V, $b: V, $imm: u8, $lane: usize) -> V {
                $body
            }
        }
    };
}
pub(super) use lane_fn;

/// `dst = f(src1, src2[, imm[, lane]])` in each lane.
macro_rules! binary {
    ($l:ident, $($f:tt)*) => {{
        lane_fn!(F: $($f)*);
        $l.three();
        by_encoding!($l, lanewise, F)
    }};
}
pub(super) use binary;

/// `dst = f(src[, imm[, lane]])` in each lane.
macro_rules! unary {
    ($l:ident, |$a:pat_param $(, $imm:pat_param $(, $lane:pat_param)?)?| $body:expr) => {{
        lane_fn!(F: |_, $a $(, $imm $(, $lane)?)?| $body);
        $l.two();
        by_encoding!($l, lanewise, F)
    }};
}
pub(super) use unary;

/// A function on whole registers.
pub(super) trait Wide {
    fn f(a: Y, b: Y, imm: u8) -> Y;
}

/// Handler of a [`Wide`] function; VEX.256 only.
pub(super) fn whole<F: Wide>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.avx()?;
    let b = source::<VEX256>(cpu, op)?;
    cpu.ymm[(op.a & 15) as usize] = F::f(reg(cpu, op.b), b, op.imm as u8);
    Ok(())
}

/// `dst = f(src1, src2, imm)` across lanes, VEX.256 only; [`Low::three`] or [`Low::two`] comes first.
macro_rules! wide {
    (|$a:pat_param, $b:pat_param, $imm:pat_param| $body:expr) => {{
        struct F;
        impl Wide for F {
            #[inline(always)]
            fn f($a: Y, $b: Y, $imm: u8) -> Y {
                $body
            }
        }
        whole::<F> as Handler
    }};
}
pub(super) use wide;

/// Records and delivers the exceptions that the lanes of a floating-point instruction met.
#[inline(always)]
pub(super) fn deliver(cpu: &mut Cpu, env: &Env) -> R {
    cpu.simd_exceptions(env.sse_flags() as u32)
}

/// A floating-point function on two elements, given their number.
pub(super) trait Float<T> {
    fn f(env: &mut Env, a: T, b: T, imm: u8, n: usize) -> T;
}

/// Handler of a packed [`Float`] function.
pub(super) fn packed<T: Element, F: Float<T>, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let b = source::<K>(cpu, op)?;
    let a = reg(cpu, op.b);
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let mut lane = |a: V, b: V| T::build(|i| F::f(&mut env, T::at(a, i), T::at(b, i), op.imm as u8, i));
    let lo = lane(low(&a), low(&b));
    let hi = if K == VEX256 { lane(high(&a), high(&b)) } else { 0 };
    deliver(cpu, &env)?;
    put::<K>(cpu, op.a, lo, hi);
    Ok(())
}

/// Handler of a scalar [`Float`] function: the other elements come from the first source.
pub(super) fn scalar<T: Element + Word, F: Float<T>, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let b = source_scalar::<T>(cpu, op)?;
    let a = xmm(cpu, op.b);
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let r = F::f(&mut env, T::at(a, 0), b, op.imm as u8, 0);
    deliver(cpu, &env)?;
    put::<K>(cpu, op.a, r.with(a, 0), 0);
    Ok(())
}

/// Handler of a [`Float`] function on neighbouring elements of both sources (HADDPS …).
pub(super) fn horizontal<T: Element, F: Float<T>, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let b = source::<K>(cpu, op)?;
    let a = reg(cpu, op.b);
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let mut lane = |a: V, b: V| T::neighbours(a, b, |x, y| F::f(&mut env, x, y, 0, 0));
    let lo = lane(low(&a), low(&b));
    let hi = if K == VEX256 { lane(high(&a), high(&b)) } else { 0 };
    deliver(cpu, &env)?;
    put::<K>(cpu, op.a, lo, hi);
    Ok(())
}

/// `shape!(l, packed, u32, |env, a, b, imm, n| …)`: a handler of [`packed`], [`scalar`] or [`horizontal`].
macro_rules! float {
    ($l:ident, $shape:ident, $t:ty, |$e:pat_param, $a:pat_param, $b:pat_param| $body:expr) => {
        float!($l, $shape, $t, |$e, $a, $b, _, _| $body)
    };
    ($l:ident, $shape:ident, $t:ty, |$e:pat_param, $a:pat_param, $b:pat_param, $imm:pat_param, $n:pat_param| $body:expr) => {{
        struct F;
        impl Float<$t> for F {
            #[inline(always)]
            fn f($e: &mut Env, $a: $t, $b: $t, $imm: u8, $n: usize) -> $t {
                $body
            }
        }
        by_encoding!($l, $shape, $t, F)
    }};
}
pub(super) use float;

/// A conversion of one element to an element of another type.
pub(super) trait Convert<S, D> {
    fn f(env: &mut Env, a: S) -> D;
}

/// Handler of a [`Convert`] function to elements at least as wide: as many as fit the destination. Memory
/// sources have just the bytes needed and no alignment.
pub(super) fn widen<S: Element, D: Element, F: Convert<S, D>, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let bytes = D::N * (S::BITS / 8) as usize;
    let v = source_part(cpu, op, if K == VEX256 { 2 * bytes } else { bytes })?;
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let lo = D::build(|i| F::f(&mut env, S::at(v, i)));
    let hi = if K == VEX256 {
        D::build(|i| F::f(&mut env, S::at(v, i + D::N)))
    } else {
        0
    };
    deliver(cpu, &env)?;
    put::<K>(cpu, op.a, lo, hi);
    Ok(())
}

/// Handler of a [`Convert`] function to elements half as wide: the rest of the XMM destination is zero.
pub(super) fn narrow<S: Element, D: Element, F: Convert<S, D>, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let y = source::<K>(cpu, op)?;
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let lo = D::build(|i| match i / S::N {
        0 => F::f(&mut env, S::at(low(&y), i)),
        _ if K == VEX256 => F::f(&mut env, S::at(high(&y), i - S::N)),
        _ => D::default(),
    });
    deliver(cpu, &env)?;
    if K == SSE {
        put::<SSE>(cpu, op.a, lo, 0)
    } else {
        put::<VEX128>(cpu, op.a, lo, 0)
    }
    Ok(())
}

/// `convert!(l, widen, u32 => u64, |env, a| …)`: a handler of [`widen`] or [`narrow`].
macro_rules! convert {
    ($l:ident, $shape:ident, $s:ty => $d:ty, |$e:pat_param, $a:pat_param| $body:expr) => {{
        struct F;
        impl Convert<$s, $d> for F {
            #[inline(always)]
            fn f($e: &mut Env, $a: $s) -> $d {
                $body
            }
        }
        $l.two();
        by_encoding!($l, $shape, $s, $d, F)
    }};
}
pub(super) use convert;
