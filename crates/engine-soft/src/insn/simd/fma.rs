//! FMA3: the 96 forms are one handler per element type and width; which operands are multiplied and which
//! signs change is in [`Op::x`].

use super::lanes::{Element, V, high, low};
use super::shape::*;
use crate::cpu::{Cpu, R};
use crate::decode::{Handler, Op};
use crate::float::sse::{self, FmaForm};
use crate::float::{Env, FmaSigns};
use donjon_memory::Word;
use iced_x86::Mnemonic::*;

// What is in `Op::x`: the form, a bit for each negated term, and the two alternating groups.
const F132: u8 = 0;
const F213: u8 = 1;
const F231: u8 = 2;
const FORM: u8 = 3;
const NEGATE_PRODUCT: u8 = 4;
const NEGATE_ADDEND: u8 = 8;
/// The sign of the addend changes from element to element; [`NEGATE_ADDEND`] is that of element 0.
const ALTERNATE: u8 = 16;

const MADD: u8 = 0;
const MSUB: u8 = NEGATE_ADDEND;
const NMADD: u8 = NEGATE_PRODUCT;
const NMSUB: u8 = NEGATE_PRODUCT | NEGATE_ADDEND;
const MADDSUB: u8 = ALTERNATE | NEGATE_ADDEND;
const MSUBADD: u8 = ALTERNATE;

/// `a * b + c` of one element type.
trait Fused: Element + Word {
    fn fused(env: &mut Env, a: Self, b: Self, c: Self, signs: FmaSigns) -> Self;
}

impl Fused for u32 {
    fn fused(env: &mut Env, a: u32, b: u32, c: u32, signs: FmaSigns) -> u32 {
        sse::fma_f32(env, a, b, c, signs)
    }
}

impl Fused for u64 {
    fn fused(env: &mut Env, a: u64, b: u64, c: u64, signs: FmaSigns) -> u64 {
        sse::fma_f64(env, a, b, c, signs)
    }
}

fn element<T: Fused>(env: &mut Env, x: u8, n: usize, op1: T, op2: T, op3: T) -> T {
    let form = match x & FORM {
        F132 => FmaForm::F132,
        F213 => FmaForm::F213,
        _ => FmaForm::F231,
    };
    let flip = x & ALTERNATE != 0 && n & 1 != 0;
    let signs = FmaSigns {
        product: x & NEGATE_PRODUCT != 0,
        addend: (x & NEGATE_ADDEND != 0) != flip,
    };
    let (a, b, c) = form.order(op1, op2, op3);
    T::fused(env, a, b, c, signs)
}

fn packed<T: Fused, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let c = source::<K>(cpu, op)?;
    let (a, b) = (reg(cpu, op.a), reg(cpu, op.b));
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let mut lane =
        |a: V, b: V, c: V| T::build(|i| element(&mut env, op.x, i, T::at(a, i), T::at(b, i), T::at(c, i)));
    let lo = lane(low(&a), low(&b), low(&c));
    let hi = if K == VEX256 {
        lane(high(&a), high(&b), high(&c))
    } else {
        0
    };
    deliver(cpu, &env)?;
    put::<K>(cpu, op.a, lo, hi);
    Ok(())
}

fn scalar<T: Fused, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    begin::<K>(cpu)?;
    let c = source_scalar::<T>(cpu, op)?;
    let (a, b) = (xmm(cpu, op.a), xmm(cpu, op.b));
    let mut env = Env::from_mxcsr(cpu.mxcsr);
    let r = element(&mut env, op.x, 0, T::at(a, 0), T::at(b, 0), c);
    deliver(cpu, &env)?;
    put::<K>(cpu, op.a, r.with(a, 0), 0);
    Ok(())
}

/// The handler of an FMA3 instruction.
pub(super) fn lower(l: &mut Low) -> Option<Handler> {
    macro_rules! table {
        ($($group:ident { $($form:ident $ps:ident $pd:ident $(, $ss:ident $sd:ident)?;)* })*) => {
            match l.i.mnemonic() {
                $($(
                    $ps => {
                        l.op.x = $group | $form;
                        by_encoding!(l, packed, u32)
                    }
                    $pd => {
                        l.op.x = $group | $form;
                        by_encoding!(l, packed, u64)
                    }
                    $(
                        $ss => {
                            l.op.x = $group | $form;
                            by_encoding!(l, scalar, u32)
                        }
                        $sd => {
                            l.op.x = $group | $form;
                            by_encoding!(l, scalar, u64)
                        }
                    )?
                )*)*
                _ => return None,
            }
        };
    }
    Some(table! {
        MADD {
            F132 Vfmadd132ps Vfmadd132pd, Vfmadd132ss Vfmadd132sd;
            F213 Vfmadd213ps Vfmadd213pd, Vfmadd213ss Vfmadd213sd;
            F231 Vfmadd231ps Vfmadd231pd, Vfmadd231ss Vfmadd231sd;
        }
        MSUB {
            F132 Vfmsub132ps Vfmsub132pd, Vfmsub132ss Vfmsub132sd;
            F213 Vfmsub213ps Vfmsub213pd, Vfmsub213ss Vfmsub213sd;
            F231 Vfmsub231ps Vfmsub231pd, Vfmsub231ss Vfmsub231sd;
        }
        NMADD {
            F132 Vfnmadd132ps Vfnmadd132pd, Vfnmadd132ss Vfnmadd132sd;
            F213 Vfnmadd213ps Vfnmadd213pd, Vfnmadd213ss Vfnmadd213sd;
            F231 Vfnmadd231ps Vfnmadd231pd, Vfnmadd231ss Vfnmadd231sd;
        }
        NMSUB {
            F132 Vfnmsub132ps Vfnmsub132pd, Vfnmsub132ss Vfnmsub132sd;
            F213 Vfnmsub213ps Vfnmsub213pd, Vfnmsub213ss Vfnmsub213sd;
            F231 Vfnmsub231ps Vfnmsub231pd, Vfnmsub231ss Vfnmsub231sd;
        }
        MADDSUB {
            F132 Vfmaddsub132ps Vfmaddsub132pd;
            F213 Vfmaddsub213ps Vfmaddsub213pd;
            F231 Vfmaddsub231ps Vfmaddsub231pd;
        }
        MSUBADD {
            F132 Vfmsubadd132ps Vfmsubadd132pd;
            F213 Vfmsubadd213ps Vfmsubadd213pd;
            F231 Vfmsubadd231ps Vfmsubadd231pd;
        }
    })
}
