//! ADD, SUB, MUL, DIV, SQRT, MIN, MAX and the FMA family (SDM vol. 2).

use super::super::soft::arith::{FmaSigns, add, div, fma, mul, sqrt, sub};
use super::super::soft::compare::{Relation, compare};
use super::super::soft::env::Env;
use super::super::soft::format::{Class, F32, F64, Format, operand, zero};

macro_rules! binary {
    ($($doc:literal $f32:ident $f64:ident $op:ident;)*) => {$(
        #[doc = concat!($doc, ", single precision.")]
        #[inline]
        pub fn $f32(env: &mut Env, a: u32, b: u32) -> u32 {
            $op::<F32>(env, a as u64, b as u64) as u32
        }

        #[doc = concat!($doc, ", double precision.")]
        #[inline]
        pub fn $f64(env: &mut Env, a: u64, b: u64) -> u64 {
            $op::<F64>(env, a, b)
        }
    )*};
}

/// The common part of MIN and MAX: the second operand is the result whenever the comparison does not
/// decide, that is for NaNs and for two zeros (SDM vol. 2, MINPS and MAXPS).
#[inline(always)]
fn select<F: Format>(env: &mut Env, a: u64, b: u64, first_if: Relation) -> u64 {
    let chosen = if compare::<F>(env, a, b, true) == first_if {
        a
    } else {
        b
    };
    // DAZ replaces the operand itself, so a denormal does not come through.
    let value = operand::<F>(env, chosen);
    if value.class == Class::Zero {
        zero::<F>(value.sign)
    } else {
        chosen
    }
}

#[inline(always)]
fn min<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    select::<F>(env, a, b, Relation::Less)
}

#[inline(always)]
fn max<F: Format>(env: &mut Env, a: u64, b: u64) -> u64 {
    select::<F>(env, a, b, Relation::Greater)
}

binary! {
    "`a + b`" add_f32 add_f64 add;
    "`a - b`" sub_f32 sub_f64 sub;
    "`a * b`" mul_f32 mul_f64 mul;
    "`a / b`" div_f32 div_f64 div;
    "MIN of `a` and `b`; `b` unless `a < b`" min_f32 min_f64 min;
    "MAX of `a` and `b`; `b` unless `a > b`" max_f32 max_f64 max;
}

/// Square root, single precision.
#[inline]
pub fn sqrt_f32(env: &mut Env, a: u32) -> u32 {
    sqrt::<F32>(env, a as u64) as u32
}

/// Square root, double precision.
#[inline]
pub fn sqrt_f64(env: &mut Env, a: u64) -> u64 {
    sqrt::<F64>(env, a)
}

/// Which operands of an FMA instruction are multiplied (SDM vol. 1 14.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FmaForm {
    /// `op1 * op3 + op2`.
    F132,
    /// `op2 * op1 + op3`.
    F213,
    /// `op2 * op3 + op1`.
    F231,
}

impl FmaForm {
    /// Brings the three operands of an instruction (destination, `vvvv`, `r/m`) into the order
    /// multiplicand, multiplier, addend that [`fma_f32`] and [`fma_f64`] take and in which their NaNs
    /// have precedence (SDM vol. 1 14.5).
    #[inline]
    pub fn order<T>(self, op1: T, op2: T, op3: T) -> (T, T, T) {
        match self {
            FmaForm::F132 => (op1, op3, op2),
            FmaForm::F213 => (op2, op1, op3),
            FmaForm::F231 => (op2, op3, op1),
        }
    }
}

/// `±(a * b) ± c` with one rounding, single precision.
#[inline]
pub fn fma_f32(env: &mut Env, a: u32, b: u32, c: u32, signs: FmaSigns) -> u32 {
    fma::<F32>(env, a as u64, b as u64, c as u64, signs) as u32
}

/// `±(a * b) ± c` with one rounding, double precision.
#[inline]
pub fn fma_f64(env: &mut Env, a: u64, b: u64, c: u64, signs: FmaSigns) -> u64 {
    fma::<F64>(env, a, b, c, signs)
}
